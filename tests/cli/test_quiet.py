"""In steady state cloister does nothing to the CPU that it watches."""
import unittest

from harness import CPU, frames, nodes, run, watch


class Quiet(unittest.TestCase):
    def assert_unobserved(self, report):
        self.assertTrue(report.sees_everything(), report.header)
        self.assertGreater(report.balance["breaches"], 0, report.balance)
        own = [(breach["cpu"], node["cause"], node["detail"], frames(node["sender"]["stack"]))
               for breach in report.breaches for node in nodes(breach)
               if breach["cpu"] == CPU and node["sender"] and node["sender"]["observer"]]
        # A CPU that is about to be idle takes over a task that waits elsewhere. Where other programs compete for the
        # watched CPU that may happen on cloister's time, when it goes to sleep; it is not cloister that asks for it.
        self.assertEqual([found for found in own if "sched_balance_newidle" not in found[-1]
                          and "newidle_balance" not in found[-1]], [])
        rows = report.rows(observer=True, away=False)
        self.assertEqual(sum(row["count"] for row in rows), len(own), [row["detail"] for row in rows])

    def test_a_quiet_program_sees_nothing_of_cloister(self):
        done = run("spin", 3)
        self.assertEqual(done.status, 0, str(done))
        self.assert_unobserved(done.report)
        self.assertEqual(done.report.count("syscall", away=False), sum(t["syscalls"] for t in done.report.threads))

    def test_the_built_in_spinner_sees_nothing_of_cloister(self):
        done = watch("-c", CPU, "-d", "2s")
        self.assertEqual(done.status, 1, str(done))
        self.assert_unobserved(done.report)

    def test_what_arming_cost_is_told(self):
        done = run("exit")
        header = done.report.header
        self.assertTrue(header["arming"], header)
        for cost in header["arming"]:
            count, name, _ = cost.split(" ", 2)
            self.assertGreater(int(count), 0, cost)
            self.assertIn(name, ("CAL", "RES"), cost)
            self.assertIn(cost, done.out)
        self.assertGreater(header["arming_ns"], 0)


if __name__ == "__main__":
    unittest.main()
