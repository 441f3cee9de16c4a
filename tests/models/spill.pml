/* The writers and the readers of one spill lane, in all interleavings.
 *
 * include/cloister/core/spill.hpp is the specification. test_models.py says which configurations are searched, and how.
 *
 *
 * WHAT STANDS FOR WHAT
 *
 *   here                            spill.hpp
 *   active_k, active_i              the word active {sequence number, sub-buffer}
 *   lost                            lost
 *   s[i].k, used, taken, closed,    the state word of sub-buffer i: always read together, changed by compare-and-swap
 *     writers
 *   cell[i * CELLS + p].tag         the cell's word, with the event's data: 0 or that of another number, torn, whole
 *   cell[...].time, lost            the event's TSC and `lost`
 *   drained                         drained
 *   now                             the clock: it moves with every look at it
 *   a_k, a_i; o_*; w_*              a, s and w of the pseudocode
 *
 *   writer   S1 .. S7, O1 .. O4 as there; DATA between S5's first store and its last
 *   reader   T1; T2 for each cell; T3
 *   drainer  LOOK  the lowest closed number > drained; T1 T2 T3 as a reader's in one step (nobody changes what is
 *            closed but a writer that commits, whose step falls before or after); T4; DRAINED
 *
 *   One step is one access to shared memory. Any process may be left standing at any step for ever: that is a thread
 *   that is stalled, or killed. A signal handler is one that runs while another stands still. Memory is sequentially
 *   consistent: on x86-64 plain stores are delayed past later loads only, and every state word's change is locked, and
 *   waits for the stores before it.
 *
 *
 * WHAT IS CHECKED
 *
 *   S4          the reservation is in a sub-buffer that is active, or was closed by nobody since
 *   DATA, S5    the cells belong to this number until they are committed
 *   T3          an accepted copy has each event that was committed when it began, none torn, in order of time, `lost`
 *               never less than before it; what is missing is what `writers` says, or less
 *   in every state: time does not go down from one number to the next; lost is exact; no two sub-buffers of one number
 *               have events
 *   T4          no number twice, none left out, no committed event neither taken nor counted
 *   LIVE        there is no cycle in which no write returns, whatever threads have left behind
 *
 *
 * CONFIGURATION
 *
 *   DISCARD 0/1   THREADS 1, 2, 3   DRAIN 0/1   SNAPSHOT 0/1   CELLS 1, 2   MAX events that are begun   LIVE 0/1
 *   MIXED 1   the second thread's events need two cells, so that sub-buffers are closed with room left
 *   MUTANT    1  O1 after O4
 *             2  O2 takes what has a number ahead of its own for free
 *             3  a sub-buffer with writers is free
 *             4  S5 before DATA
 *             5  the clock is read before S2
 *             6  T3 does not look at the number again
 *             7  the claim of number k + 1 is left to the thread that made it
 */
#ifndef DISCARD
#define DISCARD 0
#endif
#ifndef THREADS
#define THREADS 2
#endif
#ifndef DRAIN
#define DRAIN 0
#endif
#ifndef SNAPSHOT
#define SNAPSHOT 0
#endif
#ifndef CELLS
#define CELLS 1
#endif
#ifndef MAX
#define MAX 4
#endif
#ifndef MIXED
#define MIXED 0
#endif
#ifndef LIVE
#define LIVE 0
#endif
#ifndef MUTANT
#define MUTANT 0
#endif

#define N 2
#define TORN 255

typedef Buffer {
    byte k, used, writers
    bit taken, closed
}
typedef Cell {
    byte tag, time, lost
    bit big
}

byte active_k, active_i;
byte lost;
Buffer s[N];
Cell cell[N * CELLS];
byte drained;
byte now;
byte begun; /* events: the bound of the search */

/* What only the checks know. */
byte dropped;             /* writes that returned "dropped" */
byte committed[MAX + 3];  /* events of number k whose write returned */
byte reserved[MAX + 3];   /* and those that were begun there */
byte first[MAX + 3];      /* time of the earliest event in number k; 0: none */
byte last[MAX + 3];       /* and of the latest */
byte took[MAX + 3];       /* events of number k that a drain has taken */
byte passed[MAX + 3];     /* and that it has counted as lost */

#define SAME(i) (s[i].k == o_k && s[i].used == o_used && s[i].writers == o_writers && s[i].taken == o_taken && \
                 s[i].closed == o_closed)
#define LOAD(i) o_k = s[i].k; o_used = s[i].used; o_writers = s[i].writers; o_taken = s[i].taken; \
                o_closed = s[i].closed
#if MUTANT == 3
#define NOBODY true
#else
#define NOBODY (o_writers == 0)
#endif
#define FREE (o_k == 0 || (NOBODY && (o_used == 0 || (o_closed && (!DISCARD || o_taken)))))
#define NEXT (a_k + 1)
#define CLAIMED (o_k == NEXT && !o_closed)
#define FORGET d_step { a_k = 0; a_i = 0; o_k = 0; o_used = 0; o_writers = 0; o_taken = 0; o_closed = 0; i = 0; n = 0; \
                        t = 0; l = 0 }
proctype writer(byte need) {
    byte a_k, a_i, o_k, o_used, o_writers, i, n, t, l;
    bit o_taken, o_closed;

WRITE:
    if
    :: d_step { begun < MAX -> begun++ }
    :: begun >= MAX -> goto DEAD
    fi;
AGAIN:
#if MUTANT == 5
    atomic { now++; t = now };
#endif
    atomic { a_k = active_k; a_i = active_i }; /* S1 */
    d_step { LOAD(a_i) };                      /* S2 */
    if
    :: a_k != 0 && o_k != a_k -> FORGET; goto AGAIN /* S2: given away since */
    :: a_k != 0 && o_k == a_k && !o_closed && o_used + need <= CELLS -> skip
    :: a_k == 0 || (o_k == a_k && (o_closed || o_used + need > CELLS)) -> goto NEXT_ONE
    fi;
#if MUTANT != 5
    d_step { now++; t = now }; /* S3 */
#endif
    l = lost;
    if /* S4 */
    :: d_step { SAME(a_i) ->
           s[a_i].used = s[a_i].used + need; s[a_i].writers++;
           n = o_used;
           reserved[a_k] = reserved[a_k] + 1;
           assert(last[a_k] <= t);
           first[a_k] = (first[a_k] == 0 -> t : first[a_k]);
           last[a_k] = t;
           o_used = 0; o_writers = 0; o_taken = 0; o_closed = 0; o_k = 0 }
    :: !SAME(a_i) -> FORGET; goto AGAIN
    fi;
#if MUTANT == 4
    cell[a_i * CELLS + n].tag = a_k;
#endif
    d_step { /* DATA */
        assert(s[a_i].k == a_k);
#if MUTANT != 4
        cell[a_i * CELLS + n].tag = TORN;
#endif
        cell[a_i * CELLS + n].big = need - 1;
        cell[a_i * CELLS + n].time = 0;
        cell[a_i * CELLS + n].lost = 0;
        if
        :: need == 2 -> cell[a_i * CELLS + n + 1].tag = TORN /* kind 2: no event begins here */
        :: else
        fi
    };
    d_step {
        cell[a_i * CELLS + n].time = t;
        cell[a_i * CELLS + n].lost = l
    };
#if MUTANT != 4
    d_step { assert(s[a_i].k == a_k); cell[a_i * CELLS + n].tag = a_k }; /* S5 */
#endif
    d_step { /* S6 */
        assert(s[a_i].k == a_k && s[a_i].writers > 0);
        s[a_i].writers--;
        committed[a_k] = committed[a_k] + 1
    };
    goto RETURN;

NEXT_ONE:
#if MUTANT != 1
    if
    :: a_k != 0 && !o_closed ->
        if /* O1 */
        :: d_step { SAME(a_i) -> s[a_i].closed = 1 }
        :: !SAME(a_i) -> FORGET; goto AGAIN
        fi
    :: else
    fi;
#endif
    n = 1;
    do
    :: n <= N ->
        d_step { i = (a_i + n) % N; LOAD(i) }; /* O2 */
        if
#if MUTANT != 2
        :: atomic { o_k > a_k && !CLAIMED -> assert(active_k != a_k); FORGET; goto AGAIN }
#endif
#if MUTANT == 7
        :: CLAIMED -> FORGET; goto AGAIN
#else
        :: CLAIMED -> goto OPEN
#endif
#if MUTANT != 2
        :: o_k <= a_k && FREE -> goto TAKE
        :: o_k <= a_k && !FREE -> n++
#else
        :: !CLAIMED && FREE -> goto TAKE
        :: !CLAIMED && !FREE -> n++
#endif
        fi
    :: n > N -> break
    od;
    atomic { lost++; dropped++ }; /* S7 */
RETURN:
#if LIVE
progress_returned:
#endif
    skip;
    FORGET;
    goto WRITE;

TAKE:
    if /* O3 */
    :: d_step { SAME(i) ->
#if DISCARD && MUTANT != 2
           assert(o_used == 0 || took[o_k] + passed[o_k] == reserved[o_k]);
#endif
           s[i].k = NEXT; s[i].used = 0; s[i].writers = 0; s[i].taken = 0; s[i].closed = 0 }
    :: !SAME(i) -> FORGET; goto AGAIN
    fi;
OPEN:
    if /* O4 */
    :: d_step { active_k == a_k && active_i == a_i -> active_k = NEXT; active_i = i }
    :: !(active_k == a_k && active_i == a_i)
    fi;
#if MUTANT == 1
    if
    :: d_step { a_k != 0 && s[a_i].k == a_k -> s[a_i].closed = 1 }
    :: else
    fi;
#endif
    FORGET;
    goto AGAIN;
DEAD:
    skip
}

#if SNAPSHOT
proctype reader() {
    byte i, k, used, writers, n, found, covered, before, t, l, m;
    bit torn, stable;
T1:
    atomic { i = 0; k = 0; used = 0; writers = 0; n = 0; found = 0; covered = 0; before = 0; t = 0; l = 0; m = 0;
             torn = 0; stable = 0 };
    if
    :: i = 0
    :: i = 1
    fi;
    d_step { k = s[i].k; used = s[i].used; writers = s[i].writers; before = (k <= MAX + 2 -> committed[k] : 0) };
    if
    :: k == 0 || used == 0 -> goto T1
    :: else
    fi;
    do
    :: n < used ->
        m = (cell[i * CELLS + n].tag == k); /* T2: its word first */
        if
        :: m -> d_step {
               torn = torn || cell[i * CELLS + n].time == 0 || cell[i * CELLS + n].time < t ||
                      cell[i * CELLS + n].lost < l || cell[i * CELLS + n].tag != k;
               t = cell[i * CELLS + n].time; l = cell[i * CELLS + n].lost; found++;
               covered = covered + 1 + cell[i * CELLS + n].big; n = n + cell[i * CELLS + n].big }
        :: else
        fi;
        n++
    :: n >= used -> break
    od;
    atomic { /* T3 */
        stable = s[i].k == k;
#if MUTANT != 6
        if
        :: stable -> assert(!torn && found >= before);
            if
            :: s[i].used == used && s[i].writers == writers -> assert(covered == used || writers > 0)
            :: else
            fi
        :: else
        fi
#else
        assert(!torn && found >= before)
#endif
    };
    goto T1
}
#endif

#if DRAIN
proctype drainer() {
    byte i, k, n, found, covered, holes, closed;
LOOK:
    atomic { i = 0; k = 0; n = 0; found = 0; covered = 0; holes = 0; closed = 0 };
#if LIVE
progress_looked:
    skip;
#endif
    d_step { /* the lowest, and how many there are */
        n = 0;
        do
        :: n < N ->
            if
            :: s[n].used > 0 && s[n].closed && !s[n].taken && s[n].k > drained ->
                closed++;
                if
                :: k == 0 || s[n].k < k -> k = s[n].k; i = n; holes = (s[n].writers > 0)
                :: else
                fi
            :: else
            fi;
            n++
        :: n >= N -> break
        od;
        n = 0
    };
    if
    :: closed > holes -> skip
    :: else -> goto LOOK
    fi;
    d_step { /* T1 T2 T3 */
        holes = 0;
        if
        :: s[i].k == k ->
            do
            :: n < s[i].used ->
                if
                :: cell[i * CELLS + n].tag == k ->
                    found++; covered = covered + 1 + cell[i * CELLS + n].big; n = n + cell[i * CELLS + n].big
                :: else
                fi;
                n++
            :: n >= s[i].used -> break
            od;
            holes = s[i].used - covered;
            holes = (s[i].writers < holes -> s[i].writers : holes);
            assert(found + holes == reserved[k]);
            assert(took[k] == 0 && passed[k] == 0);
            took[k] = found; passed[k] = holes
        :: else -> k = 0 /* overwritten */
        fi
    };
    if
    :: k == 0 -> goto LOOK
    :: else
    fi;
#if DISCARD
    d_step { assert(s[i].k == k && drained < k); s[i].taken = 1 }; /* T4 */
#endif
    drained = k;
    goto LOOK
}
#endif

#if !LIVE
#define ORDER(k) (first[(k) + 1] == 0 || last[k] <= first[(k) + 1])
proctype invariant() {
    do
    :: d_step {
           assert(lost == dropped);
           assert(ORDER(1) && ORDER(2) && ORDER(3));
           assert(s[0].k != s[1].k || s[0].k == 0 || s[0].used == 0 || s[1].used == 0);
           assert(active_k == 0 || s[active_i].k == active_k || active_k < s[active_i].k)
#if DISCARD && DRAIN
           ;
           assert(drained == 0 || took[1] + passed[1] == reserved[1])
#endif
       }
    od
}
#endif

init {
    atomic {
        run writer(1);
#if THREADS > 1
        run writer(1 + MIXED);
#endif
#if THREADS > 2
        run writer(1);
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
