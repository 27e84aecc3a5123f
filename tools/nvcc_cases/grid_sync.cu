#include <cooperative_groups.h>
namespace cg = cooperative_groups;
extern "C" __global__ void rounds(int* data, int* out, int n) {
  cg::grid_group grid = cg::this_grid();
  int i = grid.thread_rank();
  for (int r = 0; r < 4; r++) {
    int v = data[(i + 1) % n];
    grid.sync();
    data[i] = v + 1;
    grid.sync();
  }
  out[i] = data[i] + (grid.is_valid() ? 1000 : 0);
}
