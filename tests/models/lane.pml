/* The exchange of sub-buffers between the writers and the readers of one lane, in all interleavings.
 *
 * include/cloister/core/lane.hpp is the specification. test_models.py says which configurations are searched, and how.
 *
 *
 * WHAT STANDS FOR WHAT
 *
 *   here                            lane.hpp
 *   active_k, active_d              the word active {sequence number, descriptor}: always read and stored together
 *   lost                            lost
 *   desc[d].commit_high, _left      the word commit {time, bytes left} of descriptor d; here {time, cells left}
 *   desc[d].number, begin, end,     +8, +16, +24,
 *     lost_begin, lost_end          +32, +40
 *   slot[i].k, taken, d             the word of slot i (a descriptor itself, not xor'ed: all zero is slot[i].d == i)
 *   drained                         drained
 *   cell[d * CELLS + p]             the sub-buffer of descriptor d: CELLS cells; an event fills `need` of them
 *   spare                           the drain's spare, or what it has in its hands
 *   seq                             which thread is in a restartable sequence on the lane's CPU: 0 none
 *   now                             the clock: it moves with every event that is committed
 *   a_k, a_d; w_k, w_taken, w_d     a and w of the pseudocode
 *
 *   writer   WRITE  W1 W2 (loads of words that only sequences on this CPU store: one step)
 *            STORE  store header, payload: first torn, then whole
 *            W3     commit = {high, new}                            CLAIM  W7, compare-and-swap slot to {k}
 *            AGAIN  W4, a = active                                  OPEN   W8, cpu, active == a; then CLOSE (end,
 *            ROOM   commit has room for it                                 lost_end of the old descriptor), FILL
 *            SLOT   W5, w = slot[k mod N]                                  (number, begin, lost_begin, commit of the
 *            DROP   W6, cpu, active == a; COUNT, ++lost                    new one), last ACTIVE (active)
 *   reader   R1 R2 R3 R4 R5   as there; NUMBER, BEGIN, END, COPY: the loads between them
 *   drainer  LOOK  lowest k > drained with k < active.k;  R6, R7;  KEEP  put it in a safe place;  DRAINED  drained = k
 *
 *
 * HOW MACHINES AND THREADS BECOME PROCESSES
 *
 *   One step is one access to shared memory. Any process may be left standing at any step for ever: that is a thread
 *   that is stalled, preempted, or killed. Memory is sequentially consistent. x86-64 differs in that it delays plain
 *   stores past later loads of the same CPU. Plain stores are those of sequences, and drained; they become visible in
 *   order, so that to other CPUs the writer is somewhat slower; and a change of a slot is locked, and waits for them.
 *
 *   A step inside of a sequence needs seq == me. Who begins a sequence sets seq, so whoever was in one is out of it,
 *   with all that it has stored left in memory, and starts again when it runs next: that is what a preemption, a
 *   migration and a signal do. All other steps run at any time beside the sequences of other threads: so does a thread
 *   that was migrated to another CPU after it looked at this lane, and it may come back to this one at any time.
 *
 *   A thread's signal handler (NESTED) is a third writer, which holds its thread up (`inside`) from its first step to
 *   its last. A writer that finds the bound of events (MAX) reached ends.
 *
 *   Descriptors are filled in in the order that is worst for readers: number before commit.
 *
 *
 * WHAT IS CHECKED
 *
 *   In every state (process invariant): no descriptor is in two places; what `active` names is found by its slot, and
 *   has all committed events, whole and in order; what the drain has in its hands is complete and stays so; lost is
 *   exact.
 *   W3          an event comes after all others, in the sub-buffer that `active` names
 *   ACTIVE      numbers grow by one; a closed sub-buffer is complete, and says as many drops as were returned
 *   CLAIM       `active` has not moved (so nobody makes another claim)
 *   SLOT        a slot with neither the number of this lap nor that of the previous one means that `active` has moved
 *   R5          an accepted snapshot has exactly what had been committed when the commit word was loaded, a begin that
 *               is before the first event, an end that is not before the last, and a `lost` of no later sub-buffer
 *   R6, R7      no sub-buffer twice; in discard mode none left out, and the drops of all add up to lost
 *   START       in discard mode, a drain that died leaves nothing behind that is never given back
 *   LIVE        there is no cycle in which no write returns, whatever threads have left behind
 *
 *   Where lane.hpp leaves an order open, or the order matters more than it says:
 *   R4 is before R2. After it, the drops of the next sub-buffer could be added to this one's (mutant 7).
 *   END is loaded for sub-buffers that are closed only: sequences that were restarted leave anything there before.
 *   In discard mode, drained is stored after R7: else a drain that dies between the two blocks the lane (mutant 8).
 *
 *
 * CONFIGURATION
 *
 *   DISCARD 0/1   THREADS 1, 2   NESTED 0/1   DRAIN 0/1   SNAPSHOT 0/1   CELLS 1, 2   MAX events and drops   LIVE 0/1
 *   MIXED 1   the second thread's events need two cells, so that sub-buffers are closed with room left
 *   RAISE 1   CLAIM from any lower number. The same as from exactly k - N, since active = k - 1 was seen before: no
 *             error, and as many states.
 *   MUTANT    1  OPEN compares the active descriptor without its sequence number
 *             2  CLAIM from any number
 *             3  R2 does not compare a.k
 *             4  FILL before OPEN, outside of the sequence
 *             5  the begin is rebuilt from the commit word
 *             6  SLOT leaves a claim to the thread that made it
 *             7  R4 after the copy
 *             8  the drain in discard mode stores drained before R7
 *             9  R5 does not look at the slot again
 */
#ifndef DISCARD
#define DISCARD 0
#endif
#ifndef THREADS
#define THREADS 2
#endif
#ifndef NESTED
#define NESTED 0
#endif
#ifndef DRAIN
#define DRAIN 0
#endif
#ifndef SNAPSHOT
#define SNAPSHOT 0
#endif
#ifndef CELLS
#define CELLS 2
#endif
#ifndef MAX
#define MAX 6
#endif
#ifndef MIXED
#define MIXED 0
#endif
#ifndef LIVE
#define LIVE 0
#endif
#ifndef RAISE
#define RAISE 0
#endif
#ifndef MUTANT
#define MUTANT 0
#endif

#define N 2
#define D 3
#define TORN 255
#define TAG(k, p) ((k) * CELLS + (p) + 1) /* what an event looks like at cell p of sub-buffer k; 0: never written */

typedef Descriptor {
    byte number, commit_high, commit_left, begin, end, lost_begin, lost_end
}
typedef Slot {
    byte k, d;
    bit taken
}
typedef Cell {
    byte tag, time
}

byte active_k, active_d;
byte lost;
Descriptor desc[D];
Slot slot[N];
byte drained;
Cell cell[D * CELLS];
byte spare = N;

byte seq;
bit inside;
byte now;
#if LIVE
byte aborts = 3; /* after so many, who is interrupted in a sequence does not come back */
#endif

/* What only the checks know. */
byte committed[MAX + 3]; /* cells of sub-buffer k whose write returned */
byte first[MAX + 3];     /* time of the first event in it */
byte last[MAX + 3];      /* and of the last */
byte dropped;            /* writes that returned "dropped" */
byte dropped_here;       /* of them, since `active` last moved */
byte in_hand;            /* sub-buffer that the drain reads: 0 none */
byte took;               /* last sub-buffer that the drain took */
byte took_lost;          /* its lost_end */

#define SLOT_OF(k) slot[(k) % N]
#define USED(d) (CELLS - desc[d].commit_left)
#define HAS(k, d, p) (USED(d) <= (p) || cell[(d) * CELLS + (p)].tag == TAG(k, p))
#if CELLS == 1
#define EVENTS(k, d) HAS(k, d, 0)
#else
#define EVENTS(k, d) (HAS(k, d, 0) && HAS(k, d, 1))
#endif
/* Descriptor d holds sub-buffer k, with every event of it and the right times; it was closed after that. */
#define WHOLE(k, d) (desc[d].number == (k) && USED(d) == committed[k] && EVENTS(k, d) && (USED(d) == 0 || \
    (desc[d].begin < first[k] && cell[(d) * CELLS].time == first[k] && \
     cell[(d) * CELLS + USED(d) - 1].time == last[k] && desc[d].commit_high == last[k])))
#define CLOSED(d) (USED(d) > 0 && desc[d].commit_high <= desc[d].end && desc[d].lost_begin <= desc[d].lost_end)

#define DISTINCT (slot[0].d != slot[1].d && spare != slot[0].d && spare != slot[1].d)
#define FOUND (SLOT_OF(active_k).k == active_k && !SLOT_OF(active_k).taken && SLOT_OF(active_k).d == active_d)
#if DISCARD
#define IN_HAND SLOT_OF(in_hand).d
#else
#define IN_HAND spare
#endif

#define K (a_k + 1)
#define A_IS_ACTIVE (active_k == a_k && active_d == a_d)
#define SLOT_IS_W (SLOT_OF(K).k == w_k && SLOT_OF(K).taken == w_taken && SLOT_OF(K).d == w_d)
#define PREVIOUS_LAP (K > N -> K - N : 0)

#if MUTANT == 1
#define MAY_OPEN (active_d == a_d)
#else
#define MAY_OPEN A_IS_ACTIVE
#endif
#if MUTANT == 2
#define MAY_CLAIM(k) true
#elif RAISE
#define MAY_CLAIM(k) ((k) < K)
#else
#define MAY_CLAIM(k) ((k) == PREVIOUS_LAP)
#endif
#define NO_ROOM_FOR_US (DISCARD && SLOT_OF(K).k != 0 && !SLOT_OF(K).taken)

#define FORGET d_step { a_k = 0; a_d = 0; w_k = 0; w_taken = 0; w_d = 0; d = 0; left = 0 }
#if LIVE
#define COME_BACK(where) if :: d_step { aborts > 0 -> aborts-- } goto where :: aborts == 0 -> goto DEAD fi
#else
#define COME_BACK(where) goto where
#endif

#if NESTED
proctype writer(byte me; byte need) provided (!(inside && _pid == 1)) { /* thread 1 stands still in its handler */
#else
proctype writer(byte me; byte need) {
#endif
    byte a_k, a_d, w_k, w_d, d, left;
    bit w_taken;

WRITE:
    if
    :: d_step { now + lost < MAX && desc[active_d].commit_left >= need ->
           seq = me; inside = (me == 3 -> 1 : inside); d = active_d; left = desc[d].commit_left }
    :: atomic { now + lost < MAX && desc[active_d].commit_left < need ->
           seq = 0; inside = (me == 3 -> 1 : inside); goto AGAIN }
    :: now + lost >= MAX -> goto DEAD
    fi;

STORE:
    if
    :: d_step { seq == me -> cell[d * CELLS + CELLS - left].tag = TORN;
           if
           :: need == 2 -> cell[d * CELLS + CELLS - left + 1].tag = TORN
           :: else
           fi }
    :: atomic { seq != me -> FORGET; COME_BACK(WRITE) }
    fi;
    if
    :: d_step { seq == me ->
           cell[d * CELLS + CELLS - left].tag = TAG(active_k, CELLS - left);
           cell[d * CELLS + CELLS - left].time = now + 1;
           if
           :: need == 2 ->
               cell[d * CELLS + CELLS - left + 1].tag = TAG(active_k, CELLS - left + 1);
               cell[d * CELLS + CELLS - left + 1].time = now + 1
           :: else
           fi }
    :: atomic { seq != me -> FORGET; COME_BACK(WRITE) }
    fi;
W3:
    if
    :: d_step { seq == me ->
           assert(desc[d].number == active_k && committed[active_k] == CELLS - left);
           desc[d].commit_high = now + 1;
           desc[d].commit_left = left - need;
           seq = 0;
           now++;
           first[active_k] = (committed[active_k] == 0 -> now : first[active_k]);
           last[active_k] = now;
           committed[active_k] = committed[active_k] + need;
           d = 0; left = 0 };
       goto RETURN
    :: atomic { seq != me -> FORGET; COME_BACK(WRITE) }
    fi;

AGAIN:
    atomic { a_k = active_k; a_d = active_d };
ROOM:
    if
    :: atomic { desc[a_d].commit_left >= need -> FORGET; goto WRITE }
    :: desc[a_d].commit_left < need
    fi;
SLOT:
    if
#if MUTANT == 6
    :: atomic { SLOT_OF(K).k == K -> FORGET; goto AGAIN }
#else
    :: atomic { SLOT_OF(K).k == K -> w_d = SLOT_OF(K).d; goto OPEN }
#endif
#if DISCARD
    :: SLOT_OF(K).k != K && MAY_CLAIM(SLOT_OF(K).k) && NO_ROOM_FOR_US -> goto DROP
#endif
    :: d_step { SLOT_OF(K).k != K && MAY_CLAIM(SLOT_OF(K).k) && !NO_ROOM_FOR_US ->
           w_k = SLOT_OF(K).k; w_taken = SLOT_OF(K).taken; w_d = SLOT_OF(K).d }
    :: atomic { SLOT_OF(K).k != K && !MAY_CLAIM(SLOT_OF(K).k) -> assert(!A_IS_ACTIVE); FORGET; goto AGAIN }
    fi;
CLAIM:
    if
    :: d_step { SLOT_IS_W ->
#if MUTANT != 2
           assert(A_IS_ACTIVE);
#endif
           SLOT_OF(K).k = K; SLOT_OF(K).taken = 0; w_k = 0; w_taken = 0 }
    :: atomic { !SLOT_IS_W -> FORGET; goto AGAIN }
    fi;

OPEN:
#if MUTANT == 4
    desc[w_d].number = K;
    desc[w_d].begin = now;
#if DISCARD
    desc[w_d].lost_begin = lost;
#endif
    d_step { desc[w_d].commit_high = now; desc[w_d].commit_left = CELLS };
#endif
    if
    :: d_step { MAY_OPEN -> seq = me }
    :: atomic { !MAY_OPEN -> seq = 0; FORGET; goto AGAIN }
    fi;
CLOSE:
    if
    :: d_step { seq == me -> desc[a_d].end = now }
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
#if DISCARD
    if
    :: d_step { seq == me -> desc[a_d].lost_end = lost }
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
#endif
#if MUTANT != 4
FILL:
    if
    :: d_step { seq == me -> desc[w_d].number = K }
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
    if
    :: d_step { seq == me -> desc[w_d].begin = now }
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
#if DISCARD
    if
    :: d_step { seq == me -> desc[w_d].lost_begin = lost }
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
#endif
    if
    :: d_step { seq == me -> desc[w_d].commit_high = now; desc[w_d].commit_left = CELLS }
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
#endif
ACTIVE:
    if
    :: d_step { seq == me ->
           assert(K == active_k + 1);
           assert(active_k == 0 || (WHOLE(active_k, active_d) && CLOSED(active_d) &&
                  desc[active_d].lost_end - desc[active_d].lost_begin == dropped_here));
           active_k = K; active_d = w_d;
           seq = 0;
           dropped_here = 0;
           a_k = 0; a_d = 0; w_d = 0 };
       goto AGAIN
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;

#if DISCARD
DROP:
    if
    :: d_step { A_IS_ACTIVE -> seq = me }
    :: atomic { !A_IS_ACTIVE -> seq = 0; FORGET; goto AGAIN }
    fi;
COUNT:
    if
    :: d_step { seq == me ->
           lost++;
           seq = 0;
           dropped++; dropped_here++;
           a_k = 0; a_d = 0 };
       goto RETURN
    :: atomic { seq != me -> FORGET; COME_BACK(AGAIN) }
    fi;
#endif

RETURN:
#if LIVE
progress_returned:
    skip;
#endif
#if NESTED
    if
    :: me == 3 -> inside = 0
    :: else
    fi;
#endif
    goto WRITE;
DEAD:
    skip
}

#if SNAPSHOT
#define SAME_SLOT (SLOT_OF(k).k == k && !SLOT_OF(k).taken && SLOT_OF(k).d == d)

proctype reader() {
    byte k, d, n;
    bit open, wrong, late;

R1:
    atomic { k = 0; d = 0; n = 0; open = 0; wrong = 0; late = 0 };
    if
    :: d_step { slot[0].k != 0 && !slot[0].taken -> k = slot[0].k; d = slot[0].d }
    :: d_step { slot[1].k != 0 && !slot[1].taken -> k = slot[1].k; d = slot[1].d }
    fi;
#if DISCARD && MUTANT != 7
R4:
    late = active_k > k;
#endif
R2:
    if
#if MUTANT != 3
    :: active_k < k -> goto R1
    :: d_step { active_k >= k -> open = active_k == k }
#else
    :: open = active_k == k
#endif
    fi;
NUMBER:
    if
    :: desc[d].number == k
    :: desc[d].number != k -> goto R1
    fi;
R3:
    atomic {
        n = USED(d);
        wrong = n != committed[k];
#if MUTANT == 5
        wrong = wrong || (n > 0 && desc[d].commit_high >= first[k]);
#endif
    };
    /* All loads between R3 and R5 are of words that tell nothing of each other: so any one of them, at any time. */
    if
#if MUTANT != 5
    :: n > 0 ->
BEGIN:
       wrong = wrong || desc[d].begin >= first[k]
#endif
    :: !open ->
END:
       wrong = wrong || desc[d].end < last[k] || desc[d].lost_end < desc[d].lost_begin
    :: n > 0 ->
COPY:
       wrong = wrong || cell[d * CELLS].tag != TAG(k, 0) || cell[d * CELLS].time != first[k]
#if CELLS > 1
    :: n > 1 ->
       wrong = wrong || cell[d * CELLS + 1].tag != TAG(k, 1)
#endif
    :: else
    fi;
#if DISCARD && MUTANT == 7
    late = active_k > k;
#endif
R5:
    if
    :: d_step { SAME_SLOT -> assert(!wrong); assert(!(open && late)) }
#if MUTANT != 9
    :: !SAME_SLOT
#else
    :: d_step { !SAME_SLOT -> assert(!wrong) }
#endif
    fi;
    goto R1
}
#endif

#if DRAIN
#define IS_FULL (SLOT_OF(k).k == k && !SLOT_OF(k).taken)
#define DIE atomic { k = 0; d = 0; in_hand = 0; goto START }

proctype drainer() {
    byte k, d;

START: /* of a new drain: the one before it is dead */
#if LIVE
progress_started:
    skip;
#endif
#if DISCARD
    /* What is drained has been given back: nothing stays in its slot for ever. */
    atomic {
        assert((slot[0].k > drained || slot[0].taken || slot[0].k == 0) &&
               (slot[1].k > drained || slot[1].taken || slot[1].k == 0));
        k = drained + 1
    };
#else
    atomic { spare = D - slot[0].d - slot[1].d }; /* 0 + 1 + 2 == D: the one that no slot holds */
    if
    :: d_step { desc[spare].number > drained -> k = desc[spare].number; in_hand = k }
       goto KEEP
    :: desc[spare].number <= drained
    fi;
    k = drained + 1;
#endif
LOOK: /* active only grows, so that it can as well be loaded anew with every slot */
#if LIVE
progress_looked:
    skip;
#endif
    if
    :: atomic { k >= active_k -> k = drained + 1 }
    :: atomic { k < active_k && !IS_FULL -> k++ }
    :: d_step { k < active_k && IS_FULL -> d = SLOT_OF(k).d }
       goto TAKE
    fi;
    goto LOOK;

#if !DISCARD
TAKE:
R6:
    if
    :: d_step { SLOT_OF(k).k == k && !SLOT_OF(k).taken && SLOT_OF(k).d == d ->
           assert(k > took);
           SLOT_OF(k).taken = 1; SLOT_OF(k).d = spare; spare = d;
           took = k; in_hand = k; d = 0 }
    :: atomic { SLOT_OF(k).k != k || SLOT_OF(k).taken || SLOT_OF(k).d != d -> k = drained + 1; d = 0; goto LOOK }
    :: DIE
    fi;
KEEP:
    if
    :: skip
    :: DIE
    fi;
#else
TAKE:
    atomic { assert(k == took + 1); in_hand = k };
KEEP:
    if
    :: in_hand = 0
    :: DIE
    fi;
#if MUTANT == 8
    drained = k;
#endif
R7:
    if
    :: d_step {
           assert(SLOT_OF(k).k == k && !SLOT_OF(k).taken && SLOT_OF(k).d == d && desc[d].lost_begin == took_lost);
           took_lost = desc[d].lost_end;
           SLOT_OF(k).taken = 1; took = k; d = 0 }
    :: DIE
    fi;
#endif
DRAINED:
    if
    :: d_step { drained = k; in_hand = 0; k++ }
    :: DIE
    fi;
    goto LOOK
}
#endif

#if !LIVE
proctype invariant() {
    do
    :: d_step {
           assert(DISTINCT);
           assert(lost == dropped);
           assert(active_k == 0 || FOUND);
           assert(active_k == 0 || WHOLE(active_k, active_d));
           assert(in_hand == 0 || (WHOLE(in_hand, IN_HAND) && CLOSED(IN_HAND))) }
    od
}
#endif

init {
    d_step {
        slot[0].d = 0; slot[1].d = 1
    };
    atomic {
        run writer(1, 1);
#if THREADS > 1
        run writer(2, 1 + MIXED);
#endif
#if NESTED
        run writer(3, 1);
#endif
#if SNAPSHOT
        run reader();
#endif
#if DRAIN
        run drainer();
#endif
#if !LIVE
        run invariant()
#endif
    }
}
