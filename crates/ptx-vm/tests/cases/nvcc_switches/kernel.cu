// Dense switches (brx.idx), nested loops with break, continue and early returns, a state machine over text.
extern "C" __global__ void switches(const unsigned char* text, int len, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int state = i % 7, acc = 0;
    for (int k = 0; k < len; ++k) {
        unsigned char c = text[(i * 13 + k) % len];
        switch (state) {
            case 0: state = c & 3; acc += c; break;
            case 1: if (c & 1) { state = 4; acc ^= c << 3; } else state = 2; break;
            case 2: acc -= k; state = c % 5; break;
            case 3: if (acc % 3 == 0) { acc = acc * 5 + 1; continue; } state = 5; break;
            case 4: for (int j = 0; j < (c & 7); ++j) { if (j == 5) break; acc += j * k; } state = 6; break;
            case 5: acc = (acc << 2) | (acc >> 27 & 3); state = (c >> 4) % 7; break;
            default: if (acc == 12345) { out[i] = -1; return; } state = 0; acc += 7;
        }
    }
    switch (acc & 15) {
        case 0: acc += 3; break; case 1: acc *= 3; break; case 2: acc ^= 0x55; break; case 3: acc -= 9; break; case 4: acc = ~acc; break; case 5: acc <<= 1; break; case 6: acc >>= 1; break; case 7: acc |= 64;
        case 8: acc += 11; break; case 9: acc &= 0xffff; break; case 11: acc += i; break; case 13: acc = -acc; break; default: acc += 100;
    }
    out[i] = acc;
}
