/* Lists in the preprocessor: CLOISTER_LIST_(m, 2, (T, a), (U, b)) is m(T, a), m(U, b), and CLOISTER_SUM_ the same with
 * + between. Written out, rather than with __VA_OPT__, which C11 does not have. */
#pragma once

#define CLOISTER_CAT_(a, b) CLOISTER_CAT_2_(a, b)
#define CLOISTER_CAT_2_(a, b) a##b
#define CLOISTER_APPLY_(m, x) m x
#define CLOISTER_LIST_1_(m, x) CLOISTER_APPLY_(m, x)
#define CLOISTER_LIST_2_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_1_(m, __VA_ARGS__)
#define CLOISTER_LIST_3_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_2_(m, __VA_ARGS__)
#define CLOISTER_LIST_4_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_3_(m, __VA_ARGS__)
#define CLOISTER_LIST_5_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_4_(m, __VA_ARGS__)
#define CLOISTER_LIST_6_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_5_(m, __VA_ARGS__)
#define CLOISTER_LIST_7_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_6_(m, __VA_ARGS__)
#define CLOISTER_LIST_8_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_7_(m, __VA_ARGS__)
#define CLOISTER_LIST_9_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_8_(m, __VA_ARGS__)
#define CLOISTER_LIST_10_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_9_(m, __VA_ARGS__)
#define CLOISTER_LIST_11_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_10_(m, __VA_ARGS__)
#define CLOISTER_LIST_12_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_11_(m, __VA_ARGS__)
#define CLOISTER_LIST_13_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_12_(m, __VA_ARGS__)
#define CLOISTER_LIST_14_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_13_(m, __VA_ARGS__)
#define CLOISTER_LIST_15_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_14_(m, __VA_ARGS__)
#define CLOISTER_LIST_16_(m, x, ...) CLOISTER_APPLY_(m, x), CLOISTER_LIST_15_(m, __VA_ARGS__)
#define CLOISTER_LIST_(m, n, ...) CLOISTER_CAT_(CLOISTER_CAT_(CLOISTER_LIST_, n), _)(m, __VA_ARGS__)

#define CLOISTER_SUM_1_(m, x) CLOISTER_APPLY_(m, x)
#define CLOISTER_SUM_2_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_1_(m, __VA_ARGS__)
#define CLOISTER_SUM_3_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_2_(m, __VA_ARGS__)
#define CLOISTER_SUM_4_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_3_(m, __VA_ARGS__)
#define CLOISTER_SUM_5_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_4_(m, __VA_ARGS__)
#define CLOISTER_SUM_6_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_5_(m, __VA_ARGS__)
#define CLOISTER_SUM_7_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_6_(m, __VA_ARGS__)
#define CLOISTER_SUM_8_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_7_(m, __VA_ARGS__)
#define CLOISTER_SUM_9_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_8_(m, __VA_ARGS__)
#define CLOISTER_SUM_10_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_9_(m, __VA_ARGS__)
#define CLOISTER_SUM_11_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_10_(m, __VA_ARGS__)
#define CLOISTER_SUM_12_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_11_(m, __VA_ARGS__)
#define CLOISTER_SUM_13_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_12_(m, __VA_ARGS__)
#define CLOISTER_SUM_14_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_13_(m, __VA_ARGS__)
#define CLOISTER_SUM_15_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_14_(m, __VA_ARGS__)
#define CLOISTER_SUM_16_(m, x, ...) CLOISTER_APPLY_(m, x) + CLOISTER_SUM_15_(m, __VA_ARGS__)
#define CLOISTER_SUM_(m, n, ...) CLOISTER_CAT_(CLOISTER_CAT_(CLOISTER_SUM_, n), _)(m, __VA_ARGS__)

/* Of provider, name, fields...: how many fields there are, and 0 or 1 for whether there are any. */
#define CLOISTER_COUNT_(...) \
    CLOISTER_COUNT_2_(__VA_ARGS__, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0)
#define CLOISTER_COUNT_2_(p, n, a, b, c, d, e, f, g, h, i, j, k, l, m, o, q, r, count, ...) count
#define CLOISTER_SHAPE_(...) CLOISTER_SHAPE_2_(__VA_ARGS__, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0)
#define CLOISTER_SHAPE_2_(p, n, a, b, c, d, e, f, g, h, i, j, k, l, m, o, q, r, shape, ...) shape
