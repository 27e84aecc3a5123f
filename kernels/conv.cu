// conv: convolution over frames, rows and columns as an implicit matrix product on tensor cores.
//
//   out[t,y,x,n] = alpha * sum_{a,b,c,i} in[t*st + a - pt, y*s + b - ps, x*s + c - ps, i] w[n,a,b,c,i] + bias[n] (+ residual)
//
// With `relu`, what is below 0 becomes 0, last of all.
//
// in is zero outside its frames, rows and columns. `upsample` doubles its rows and columns first (nearest), by an address; the
// pad in front is given and that behind follows from the size of out, so causal (all of it in front in time), symmetric and
// one-sided pads are all the same to the kernel. kernel_t = 1 makes frames independent: a convolution of images; all kernel sizes 1:
// a matrix product. Channels come last everywhere and are multiples of 8: a tap's channels are whole 16-byte chunks.
//
// Chunks. Frames before those of in may lie in a tensor of their own (before): what a causal convolution keeps of one chunk of a video for the
// next. Zeros are before those.
//
// Bands. in may hold only some rows of each frame (in_first, in_rows) and out may be asked for only some (out_first, out_rows):
// what does not fit in memory at once is made band by band, with the very same bits.
//
// Time. With time_factor f the n columns are f groups of n/f channels; group j of frame t becomes frame t*f + j of out.
//
// The product: m = positions of out (frame, row of the band, column), n = channels of out, k = (tap, channel of in). A CTA makes a
// TILE_M x TILE_N tile (blockIdx.x, n fastest); k advances by 64 bytes through a ring of STAGES tiles, filled by cp.async:
//
//   stage: a [TILE_M][64 B], w [TILE_N][64 B]; the four chunks of row r at chunk ^ ((r >> 1) & 3): two rows fill the 128 bytes
//   of banks and four pairs of rows meet four places, so ldmatrix meets no bank twice.
//
//   a's row is a position's pixel under a tap: each thread keeps the first tap's coordinates of its rows, and the address
//   is made anew only when the tap changes. Pixels in the pad are filled with zeros by cp.async itself.
//   w's rows are stored as in linear.cu, so that a lane ends with 4 consecutive columns of out.
//
// Entries conv_{bf16,f16}_{192,tall}, conv_f32_96, conv_{bf16,f16,f32}_{128,16}; and conv_{bf16,f16}_{row192,row96,row128}, 128 x 192, 256 x 96
// and 256 x 128, whose three taps of a row share what was copied: see conv_row. For the 96, 192 and 384 channels of Wan's autoencoder: _192
// 128 x 192 and _tall 256 x 96, eight warps of 64 x 48; _96 128 x 96, four such warps. _128: 128 x 128, eight warps of 64 x 32. _16: 128 x 16,
// four warps of 32 x 16, for the few channels of latents and pixels. The order of additions is that of k in all: the tile does not change
// a bit.
// Expected registers and bytes of dynamic shared memory: _192 about 160, 81920; _tall about 175, 90112; _96 about 200, 57344; _128 at most
// 128 (f32 about 200), 65536; _16 below 100, 36864. _row192 about 205, _row96 about 215, _row128 about 240, and w's stages, 49152, 24576, 32768, with
// a ring of 8448, 16640, 16640 for every 32 channels of the input, at least four.
#include "params.h"
#include "launch_tiles.h"
#include "tile.cuh"

constexpr int K_BYTES = 64;            // of a row in one stage
constexpr int K_CHUNKS = K_BYTES / 16; // 16-byte chunks

// 64: the second k-step of a row is an exclusive or away from the first. 128: so are the zeros of conv_row, bank for bank.
extern __shared__ __align__(128) unsigned char dynamic_shared[];

__device__ __forceinline__ int swizzle(int row) { return (row >> 1) & 3; }
__device__ __forceinline__ unsigned chunk_offset(int row, int chunk) { return row * K_BYTES + ((chunk ^ swizzle(row)) << 4); }

// Where w's row r of a tile is stored: columns 4t, 4t+1 of each 16 go to the first n-tile, 4t+2, 4t+3 to the second.
__device__ __forceinline__ int interleaved(int r) { return (r & ~15) | ((r & 2) << 2) | ((r & 12) >> 1) | (r & 1); }

// A position of out: frame, row within the band, column.
struct Position { int t, y, x; };
__device__ __forceinline__ Position position(const ConvParams& p, int m) {
  const int line = m / p.out_width;
  return {line / p.out_rows, line % p.out_rows, m - line * p.out_width};
}

// A warp's sums, and what is done to them.
template <class D, int WARP_M, int WARP_N> struct Sums {
  static constexpr int M_TILES = WARP_M / 16, GROUPS = WARP_N / 16;
  float acc[M_TILES][GROUPS][2][4]; // [m-tile][pair][n-tile of the pair][fragment]

  __device__ __forceinline__ Sums() {
#pragma unroll
    for (int i = 0; i < M_TILES; i++)
#pragma unroll
      for (int j = 0; j < GROUPS; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
          for (int e = 0; e < 4; e++) acc[i][j][h][e] = 0.0f;
  }
  // One k-step from fragments at these addresses; `load` makes the registers of m-tile i.
  template <class Load> __device__ __forceinline__ void multiply(Load load, unsigned w_from) {
    FragmentA<D> fa[M_TILES];
    unrolled<M_TILES>([&](auto i) {
      unsigned x[4];
      load(x, i);
      fa[i.value] = fragment_a<D>(x);
    });
    unrolled<GROUPS>([&](auto j) {
      unsigned x[4];
      ldmatrix_x4<j.value * 16 * K_BYTES>(x, w_from);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const FragmentB<D> fb = fragment_b<D>(x[2 * h], x[2 * h + 1]);
#pragma unroll
        for (int i = 0; i < M_TILES; i++) mma(acc[i][j.value][h], fa[i], fb);
      }
    });
  }
  // The epilogue of the warp whose first position and column these are: a lane has columns 4t..4t+3 of each pair, rows g and g+8 of each m-tile.
  __device__ __forceinline__ void store(const ConvParams& p, int first_m, int first_n) const {
    const int lane = threadIdx.x & 31, m_end = p.out_frames * p.out_rows * p.out_width;
    const int out_channels = p.n / p.time_factor;
    const int column0 = first_n + (lane & 3) * 4;
    const D* const bias = static_cast<const D*>(p.bias);
    const D* const residual = static_cast<const D*>(p.residual);
#pragma unroll
    for (int i = 0; i < M_TILES; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int m = first_m + i * 16 + h * 8 + (lane >> 2);
        if (m >= m_end) continue;
        const Position o = position(p, m);
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
          const int column = column0 + 16 * j;
          if (column >= p.n) continue;
          const int group = column / out_channels; // 4 columns never straddle two
          const int frame = o.t * p.time_factor + group;
          const long long element =
              ((long long)(frame * p.out_height + p.out_first + o.y) * p.out_width + o.x) * out_channels + column - group * out_channels;
          float b[4] = {0.0f, 0.0f, 0.0f, 0.0f}, y[4];
          if (bias) load_run(bias + column, b);
#pragma unroll
          for (int e = 0; e < 4; e++) y[e] = fmaf(acc[i][j][e >> 1][2 * h + (e & 1)], p.alpha, b[e]);
          if (residual) {
            load_run(residual + element, b);
#pragma unroll
            for (int e = 0; e < 4; e++) y[e] += b[e];
          }
          if (p.relu) {
#pragma unroll
            for (int e = 0; e < 4; e++) y[e] = fmaxf(y[e], 0.0f);
          }
          if (p.out_f32) store_run(static_cast<float*>(p.out) + element, y);
          else store_run(static_cast<D*>(p.out) + element, y);
        }
      }
    }
  }
};

template <class D, int TILE_M, int TILE_N, int WARP_M, int WARP_N, int STAGES>
__device__ __forceinline__ void conv(const ConvParams& p) {
  constexpr int WARPS_N = TILE_N / WARP_N;
  constexpr int THREADS = TILE_M / WARP_M * WARPS_N * 32;
  constexpr int STAGE_BYTES = (TILE_M + TILE_N) * K_BYTES;
  constexpr int CHUNK = Chunk<D>::N;            // elements of a chunk
  constexpr int K_TILE = K_CHUNKS * CHUNK;      // elements of k in a stage
  constexpr int SLOT_ROWS = THREADS / K_CHUNKS; // a thread loads one chunk of every SLOT_ROWS-th row
  constexpr int A_SLOTS = TILE_M / SLOT_ROWS;
  constexpr int W_SLOTS = (TILE_N + SLOT_ROWS - 1) / SLOT_ROWS;
  static_assert(SLOT_ROWS % 16 == 0 && TILE_M % SLOT_ROWS == 0 && WARP_N % 16 == 0, "tile");

  const int m_end = p.out_frames * p.out_rows * p.out_width;
  const int k_end = p.kernel_t * p.kernel_h * p.kernel_w * p.channels;
  const int tiles_n = (p.n + TILE_N - 1) / TILE_N;
  const int m0 = blockIdx.x / tiles_n * TILE_M, n0 = blockIdx.x % tiles_n * TILE_N;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const unsigned shared = shared_address(dynamic_shared);

  // ---- loaders
  const int slot_row = tid / K_CHUNKS, slot_chunk = tid % K_CHUNKS;
  const unsigned a_store = shared + chunk_offset(slot_row, slot_chunk);
  const unsigned w_store = shared + TILE_M * K_BYTES + chunk_offset(interleaved(slot_row), slot_chunk);
  const D* w_slot = static_cast<const D*>(p.w) + (long long)(n0 + slot_row) * k_end + slot_chunk * CHUNK;
  const long long w_stride = (long long)SLOT_ROWS * k_end;
  const int w_rows = p.n - n0 - slot_row; // slot i exists if i * SLOT_ROWS is below

  // The pixels under the first tap, in the upsampled input.
  Position first[A_SLOTS];
#pragma unroll
  for (int i = 0; i < A_SLOTS; i++) {
    const int m = m0 + slot_row + i * SLOT_ROWS;
    const Position o = position(p, m);
    first[i] = {m < m_end ? o.t * p.stride_t - p.pad_t : -(1 << 30), (o.y + p.out_first) * p.stride - p.pad, o.x * p.stride - p.pad};
  }
  // The next chunk of k this thread loads: its tap, and the channel within it.
  int tap_t = 0, tap_y = 0, tap_x = 0, channel = slot_chunk * CHUNK;
  auto carry = [&] { // a channel beyond the tap's belongs to a later tap
    bool moved = false;
    while (channel >= p.channels && tap_t < p.kernel_t) {
      channel -= p.channels;
      moved = true;
      if (++tap_x == p.kernel_w) {
        tap_x = 0;
        if (++tap_y == p.kernel_h) tap_y = 0, ++tap_t;
      }
    }
    return moved;
  };
  const D* a_slot[A_SLOTS]; // channel 0 of the pixel under the tap
  int a_bytes[A_SLOTS];     // 0 in the pad and beyond k
  auto place = [&] {
#pragma unroll
    for (int i = 0; i < A_SLOTS; i++) {
      const int t = first[i].t + tap_t, y = (first[i].y + tap_y) >> p.upsample, x = (first[i].x + tap_x) >> p.upsample;
      const bool inside = tap_t < p.kernel_t && t >= -p.frames_before && t < p.frames && (unsigned)y < (unsigned)p.height && (unsigned)x < (unsigned)p.width;
      a_bytes[i] = inside ? 16 : 0;
      const D* const frames = static_cast<const D*>(t < 0 ? p.before : p.x);
      a_slot[i] = frames + (long long)(((t < 0 ? t + p.frames_before : t) * p.in_rows + y - p.in_first) * p.width + x) * p.channels;
    }
  };
  carry();
  place();

  // Starts the loads of the next tile into its stage.
  auto load_tile = [&](unsigned stage) {
    unrolled<A_SLOTS>([&](auto i) { cp_async16<i.value * SLOT_ROWS * K_BYTES>(a_store + stage, a_slot[i.value] + channel, a_bytes[i.value]); });
    const D* from = w_slot;
    unrolled<W_SLOTS>([&](auto i) {
      constexpr int row = i.value * SLOT_ROWS;
      if (row + SLOT_ROWS <= TILE_N || slot_row + row < TILE_N)
        cp_async16<row * K_BYTES>(w_store + stage, from, tap_t < p.kernel_t && row < w_rows ? 16 : 0);
      from += w_stride;
    });
    w_slot += K_TILE;
    channel += K_TILE;
    if (carry()) place();
  };

  // ---- main loop
  const int warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;
  const bool active = m0 + warp_m < m_end && n0 + warp_n < p.n; // else: this warp only loads
  const int a_row = warp_m + (lane & 15), w_row = warp_n + ((lane >> 4) << 3) + (lane & 7);
  const unsigned a_load = shared + chunk_offset(a_row, lane >> 4);
  const unsigned w_load = shared + TILE_M * K_BYTES + chunk_offset(w_row, (lane >> 3) & 1);

  Sums<D, WARP_M, WARP_N> sums;
  auto multiply = [&](unsigned a_from, unsigned w_from) {
    sums.multiply([&](unsigned(&x)[4], auto i) { ldmatrix_x4<i.value * 16 * K_BYTES>(x, a_from); }, w_from);
  };

  const int tiles = (k_end + K_TILE - 1) / K_TILE;
  unsigned read = 0, write = 0; // stage offsets
  auto next = [](unsigned stage) { return stage == (STAGES - 1) * STAGE_BYTES ? 0u : stage + STAGE_BYTES; };
#pragma unroll 1
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < tiles) load_tile(write);
    cp_async_commit();
    write = next(write);
  }
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads(); // the tile has landed for everyone, and everyone has read the previous one
    if (tile + STAGES - 1 < tiles) load_tile(write);
    cp_async_commit();
    if (active) {
      multiply(a_load + read, w_load + read);
      // The second k-step: chunks 2 and 3, where the swizzle only flips bits.
      if (k_end - tile * K_TILE > K_TILE / 2) multiply((a_load ^ 32) + read, (w_load ^ 32) + read);
    }
    read = next(read);
    write = next(write);
  }
  if (active) sums.store(p, m0 + warp_m, n0 + warp_n);
}

// As conv, with the bits of conv, for three taps in a row of in, one column ahead, and as many columns of out as of in (upsampled): TAPS_X.
// channels a multiple of K_TILE.
//
// The tile's positions and their two neighbours, under the taps (a, b), are TILE_M + 2 pixels, and tap c of a position is c pixels on. So they
// are copied once for the three taps, in blocks of K_TILE channels. k is as before, that is c before the channels, so all blocks of (a, b) are
// needed for every c and stay; those of the next (a, b) come when the last tap has been taken, each into the place of an old one.
//
// Shared memory: w [STAGES][TILE_N][64 B]; then a ring of max(channels / K_TILE, STAGES) blocks, each [TILE_M + 2][64 B], with chunks as in
// conv, and 128 bytes of zeros: where a tap leaves its row, left or right, ldmatrix gets its address there, in the banks that the pixel has.
template <class D, int TILE_M, int TILE_N, int WARP_M, int WARP_N, int STAGES>
__device__ __forceinline__ void conv_row(const ConvParams& p) {
  constexpr int TAPS_X = 3;
  constexpr int WARPS_N = TILE_N / WARP_N;
  constexpr int THREADS = TILE_M / WARP_M * WARPS_N * 32;
  constexpr int ROWS = TILE_M + TAPS_X - 1, ZEROS_AT = ROWS * K_BYTES, BLOCK_BYTES = ZEROS_AT + 2 * K_BYTES;
  constexpr int STAGE_BYTES = TILE_N * K_BYTES, RING_AT = STAGES * STAGE_BYTES;
  constexpr int CHUNK = Chunk<D>::N, K_TILE = K_CHUNKS * CHUNK, SLOT_ROWS = THREADS / K_CHUNKS;
  constexpr int A_SLOTS = (ROWS + SLOT_ROWS - 1) / SLOT_ROWS, W_SLOTS = (TILE_N + SLOT_ROWS - 1) / SLOT_ROWS;
  constexpr int M_TILES = WARP_M / 16;
  static_assert(SLOT_ROWS % 16 == 0 && WARP_N % 16 == 0 && BLOCK_BYTES % 128 == 0 && RING_AT % 128 == 0 && BLOCK_BYTES == CONV_ROW_BLOCK(TILE_M), "tile");

  const int m_end = p.out_frames * p.out_rows * p.out_width;
  const int k_end = p.kernel_t * p.kernel_h * TAPS_X * p.channels;
  const int tiles_n = (p.n + TILE_N - 1) / TILE_N;
  const int m0 = blockIdx.x / tiles_n * TILE_M, n0 = blockIdx.x % tiles_n * TILE_N;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const unsigned shared = shared_address(dynamic_shared);
  const int blocks = p.channels / K_TILE;
  const unsigned ring = max(blocks, STAGES) * BLOCK_BYTES; // bytes

  for (unsigned at = tid * 16; at < ring / BLOCK_BYTES * 128; at += THREADS * 16)
    store_shared16(shared + RING_AT + at / 128 * BLOCK_BYTES + ZEROS_AT + at % 128, make_uint4(0, 0, 0, 0));

  // ---- loaders
  const int slot_row = tid / K_CHUNKS, slot_chunk = tid % K_CHUNKS;
  const unsigned a_store = shared + RING_AT + chunk_offset(slot_row, slot_chunk);
  const unsigned w_store = shared + chunk_offset(interleaved(slot_row), slot_chunk);
  const D* w_slot = static_cast<const D*>(p.w) + (long long)(n0 + slot_row) * k_end + slot_chunk * CHUNK;
  const long long w_stride = (long long)SLOT_ROWS * k_end;
  const int w_rows = p.n - n0 - slot_row; // slot i exists if i * SLOT_ROWS is below

  // The pixels under the first taps in time and rows, and under the middle one of a row, in the upsampled input.
  Position first[A_SLOTS];
#pragma unroll
  for (int i = 0; i < A_SLOTS; i++) {
    const int m = m0 - 1 + slot_row + i * SLOT_ROWS;
    const bool inside = m >= 0 && m < m_end;
    const Position o = position(p, inside ? m : 0);
    first[i] = {inside ? o.t * p.stride_t - p.pad_t : -(1 << 30), o.y + p.out_first - p.pad, o.x >> p.upsample};
  }
  int tap_t = 0, tap_y = 0, channel = slot_chunk * CHUNK; // of the next block
  const D* a_slot[A_SLOTS];
  int a_bytes[A_SLOTS]; // 0 in the pad
  auto place = [&] {
#pragma unroll
    for (int i = 0; i < A_SLOTS; i++) {
      const int t = first[i].t + tap_t, y = (first[i].y + tap_y) >> p.upsample;
      a_bytes[i] = t >= -p.frames_before && t < p.frames && (unsigned)y < (unsigned)p.height ? 16 : 0;
      const D* const frames = static_cast<const D*>(t < 0 ? p.before : p.x);
      a_slot[i] = frames + (long long)(((t < 0 ? t + p.frames_before : t) * p.in_rows + y - p.in_first) * p.width + first[i].x) * p.channels;
    }
  };
  place();
  // Starts the copies of the next block into its place of the ring.
  auto load_block = [&](unsigned to) {
    unrolled<A_SLOTS>([&](auto i) {
      constexpr int row = i.value * SLOT_ROWS;
      if (row + SLOT_ROWS <= ROWS || slot_row + row < ROWS) cp_async16<row * K_BYTES>(a_store + to, a_slot[i.value] + channel, a_bytes[i.value]);
    });
    channel += K_TILE;
  };
  // Behind the last block of a row to the next row, before another block is loaded.
  auto next_row = [&] {
    if (channel < p.channels) return;
    channel -= p.channels;
    if (++tap_y == p.kernel_h) tap_y = 0, ++tap_t;
    place();
  };
  // Starts those of the next tile of w into its stage.
  auto load_w = [&](unsigned stage) {
    const D* from = w_slot;
    unrolled<W_SLOTS>([&](auto i) {
      constexpr int row = i.value * SLOT_ROWS;
      if (row + SLOT_ROWS <= TILE_N || slot_row + row < TILE_N) cp_async16<row * K_BYTES>(w_store + stage, from, row < w_rows ? 16 : 0);
      from += w_stride;
    });
    w_slot += K_TILE;
  };

  // ---- main loop
  const int warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;
  const bool active = m0 + warp_m < m_end && n0 + warp_n < p.n; // else: this warp only loads
  const unsigned w_load = shared + chunk_offset(warp_n + ((lane >> 4) << 3) + (lane & 7), (lane >> 3) & 1);
  // Of this lane's row in m-tile i: bit i if it is the first of its row, bit 16 + i if the last.
  unsigned edges = 0;
#pragma unroll
  for (int i = 0; i < M_TILES; i++) {
    const int x = (m0 + warp_m + i * 16 + (lane & 15)) % p.out_width;
    edges |= (unsigned)(x == 0) << i | (unsigned)(x == p.out_width - 1) << (16 + i);
  }
  unsigned a_load[M_TILES]; // in a block, under tap x
  auto aim = [&](int x) {
    const unsigned out = x == 0 ? edges : x == TAPS_X - 1 ? edges >> 16 : 0;
#pragma unroll
    for (int i = 0; i < M_TILES; i++) {
      const unsigned at = chunk_offset(warp_m + i * 16 + (lane & 15) + x, lane >> 4);
      a_load[i] = shared + RING_AT + (out >> i & 1 ? ZEROS_AT + at % 128 : at);
    }
  };
  aim(0);

  Sums<D, WARP_M, WARP_N> sums;
  const int rows = p.kernel_t * p.kernel_h;
  int w_left = rows * TAPS_X * blocks, a_left = rows * blocks; // tiles of w and blocks to load
  int room = (int)(ring / BLOCK_BYTES);                        // places without a block that is still needed
  unsigned fill = 0, write = 0, read_w = 0, read = 0;          // offsets of a block in the ring, of stages
  auto next = [](unsigned stage) { return stage == (STAGES - 1) * STAGE_BYTES ? 0u : stage + STAGE_BYTES; };
  auto next_block = [&](unsigned at) { return at + BLOCK_BYTES == ring ? 0u : at + BLOCK_BYTES; };
  // Starts a tile's copies: w's tile and, if there is a place, a block. Both are needed STAGES - 1 tiles later at the earliest.
  auto load = [&] {
    if (w_left > 0) load_w(write);
    if (a_left > 0 && room > 0) {
      load_block(fill);
      fill = next_block(fill);
      a_left--, room--;
    }
    cp_async_commit();
    write = next(write);
    w_left--;
  };
#pragma unroll 1
  for (int s = 0; s < STAGES - 1; s++) {
    load();
    next_row();
  }
  int x = 0;
#pragma unroll 1
  for (int pass = rows * TAPS_X; pass > 0; pass--) {
#pragma unroll 1
    for (int block = 0; block < blocks; block++) {
      cp_async_wait<STAGES - 2>();
      __syncthreads(); // the tile has landed for everyone, and everyone has read the previous one
      load();          // of no two rows in one pass
      if (active) {
        sums.multiply([&](unsigned(&f)[4], auto i) { ldmatrix_x4(f, a_load[i.value] + read); }, w_load + read_w);
        sums.multiply([&](unsigned(&f)[4], auto i) { ldmatrix_x4(f, (a_load[i.value] ^ 32) + read); }, (w_load ^ 32) + read_w);
      }
      read_w = next(read_w);
      read = next_block(read);
      room += x == TAPS_X - 1; // the block has been taken for the last time
    }
    next_row();
    x = x == TAPS_X - 1 ? 0 : x + 1;
    if (x > 0) read = read < blocks * BLOCK_BYTES ? read + ring - blocks * BLOCK_BYTES : read - blocks * BLOCK_BYTES; // the same blocks again
    aim(x);
  }
  if (active) sums.store(p, m0 + warp_m, n0 + warp_n);
}

// ---- entries -------------------------------------------------------------------------------------------------------------------
#define CONV_WIDE(D)                                                                                                         \
  extern "C" __global__ void __launch_bounds__(CONV_192_THREADS, 1) conv_##D##_192(const ConvParams p) {                      \
    conv<D, CONV_M, 192, 64, 48, CONV_STAGES>(p);                                                                            \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(CONV_TALL_THREADS, 1) conv_##D##_tall(const ConvParams p) {                    \
    conv<D, CONV_TALL_M, 96, 64, 48, CONV_STAGES>(p);                                                                        \
  }
#define CONV_ROW(D)                                                                                                          \
  extern "C" __global__ void __launch_bounds__(CONV_ROW_THREADS, 1) conv_##D##_row192(const ConvParams p) {                   \
    conv_row<D, CONV_M, 192, 64, 48, CONV_STAGES>(p);                                                                        \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(CONV_ROW_THREADS, 1) conv_##D##_row96(const ConvParams p) {                    \
    conv_row<D, CONV_TALL_M, 96, 64, 48, CONV_STAGES>(p);                                                                    \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(CONV_ROW_THREADS, 1) conv_##D##_row128(const ConvParams p) {                   \
    conv_row<D, CONV_TALL_M, 128, 64, 64, CONV_STAGES>(p);                                                                   \
  }
#define CONV_96(D)                                                                                                           \
  extern "C" __global__ void __launch_bounds__(CONV_96_THREADS, 2) conv_##D##_96(const ConvParams p) {                        \
    conv<D, CONV_M, 96, 64, 48, CONV_STAGES>(p);                                                                             \
  }
#define CONV_TILES(D)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(CONV_128_THREADS, sizeof(D) == 2 ? 2 : 1) conv_##D##_128(const ConvParams p) { \
    conv<D, CONV_M, 128, 64, 32, CONV_STAGES>(p);                                                                            \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(CONV_16_THREADS) conv_##D##_16(const ConvParams p) {                          \
    conv<D, CONV_M, 16, 32, 16, CONV_STAGES>(p);                                                                             \
  }

#ifdef ONE_ENTRY // for quick looks at the compiler's output
ONE_ENTRY
#else
CONV_WIDE(bf16)
CONV_ROW(bf16)
CONV_TILES(bf16)
CONV_WIDE(f16)
CONV_ROW(f16)
CONV_TILES(f16)
CONV_96(f32)
CONV_TILES(f32)
#endif
