// linear.cu's entries for operands in e4m3 (3 bits of fraction, largest 448), each row of them with an f32 scale: linear_fp8_{bias,gelu,residual}_
// {bf16,f16}_wgmma, the type being that of bias and out.
//
//   out = epilogue((a . w^T) a_scale w_scale + bias)      wgmma m64n192k32: 128 elements of k a stage, four k-steps
//
// The epilogue multiplies the sums by both scales, the second time as it adds the bias. Tensor cores multiply e4m3 twice as fast as 16-bit types, and
// elements are half as large: a tile asks L2 for the same 37 bytes a clock.
//
// Hopper's tensor cores add e4m3 products with about 14 bits: each k-step cuts what is below 2^-13 of the largest summand. Sums that were taken to
// other registers every 128 elements of k, as DeepGEMM does, would need 192 registers a thread more. Smaller tiles have the room, 128 x 192 for
// two warpgroups, and ask L2 for 53 bytes a clock where it gives 39. The cut is small beside the 4 % that rounding both operands costs.
#define LINEAR_FP8
#include "sm_90a/linear.cu"
