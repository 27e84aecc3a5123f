// linear.cu's entries for products of so few tiles that they would leave multiprocessors idle: smaller tiles, and k split between CTAs.
// A module of its own, so that only who needs them loads them.
#define LINEAR_FEW_ENTRIES
#include "linear.cu"
