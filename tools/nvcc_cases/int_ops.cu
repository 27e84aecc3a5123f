// Integer intrinsics: function f on element i goes to out[f * n + i].
extern "C" __global__ void int_ops(const unsigned* xs, const unsigned* ys, unsigned* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned x = xs[i], y = ys[i];
    int a = x, b = y;
    unsigned* o = out + i;
    auto put = [&](unsigned v) { *o = v; o += n; };
    put(__clz(a)); put(__ffs(a)); put(__popc(x)); put(__brev(x)); put(__mulhi(a, b)); put(__umulhi(x, y)); put(__mul24(a, b)); put(__umul24(x, y)); put(__sad(a, b, x)); put(__usad(x, y, x));
    put(__hadd(a, b)); put(__rhadd(a, b)); put(__uhadd(x, y)); put(__urhadd(x, y)); put(__byte_perm(x, y, x & 0x7777)); put(__byte_perm(x, y, y)); put(__funnelshift_l(x, y, x)); put(__funnelshift_r(x, y, y)); put(__funnelshift_lc(x, y, x & 63)); put(__funnelshift_rc(x, y, y & 63));
    put(__dp4a(a, b, 5)); put(__dp4a(x, y, 5u)); put(__dp2a_lo(a, b, 7)); put(__dp2a_hi(x, y, 9u)); put(x / (y | 1)); put(x % (y | 1)); put(a / (b | 1)); put(a % (b | 1)); put(x / 7); put(a / -13); put(a % 1000003); put(x << (y & 31)); put(a >> (b & 31)); put(min(a, b)); put(max(x, y)); put(abs(a));
    put(__fns(x, y & 31, 2)); put((unsigned char)x + (signed char)y); put((short)a * (short)b); put((unsigned short)x / ((unsigned short)y | 1)); put((signed char)a % (((signed char)b) | 1)); put((x >> 5 & 0xff) | (y & 0xfff) << 8);
    put(__vadd2(x, y)); put(__vadd4(x, y)); put(__vaddss2(x, y)); put(__vaddss4(x, y)); put(__vaddus2(x, y)); put(__vaddus4(x, y)); put(__vsub2(x, y)); put(__vsub4(x, y)); put(__vsubss4(x, y)); put(__vsubus2(x, y)); put(__vabsdiffu4(x, y)); put(__vabsdiffs2(x, y)); put(__vabsdiffu2(x, y)); put(__vsadu4(x, y)); put(__vsads2(x, y));
    put(__vavgu4(x, y)); put(__vavgs2(x, y)); put(__vhaddu4(x, y)); put(__vmaxs2(x, y)); put(__vmaxu4(x, y)); put(__vmins4(x, y)); put(__vminu2(x, y)); put(__vcmpeq4(x, y)); put(__vcmpgts2(x, y)); put(__vcmpltu4(x, y)); put(__vsetges4(x, y)); put(__vsetne2(x, y)); put(__vabs2(x)); put(__vabsss4(x)); put(__vneg4(x)); put(__vnegss2(x));
    put(__vimax_s32_relu(a, b)); put(__vimin3_s32(a, b, a ^ b)); put(__viaddmax_s16x2(x, y, x ^ y)); put(__vimax3_u16x2(x, y, x ^ y)); put(__viaddmin_u32(x, y, 77)); bool p = false, q = false; put(__vibmax_u16x2(x, y, &p, &q) + p + 2 * q);
    put((unsigned)__mul64hi((long long)a << 20, (long long)b << 13)); put((unsigned)__umul64hi((unsigned long long)x << 31, (unsigned long long)y << 29)); put(__clzll((long long)x << 7)); put(__ffsll((long long)y << 21)); put(__popcll((unsigned long long)x << 17 | y)); put((unsigned)(__brevll((unsigned long long)x << 9 | y) >> 11));
}
