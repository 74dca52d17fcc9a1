// Independent fused multiply-adds in registers: as many a second as a core can do.

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

// Enough to hide the latency of two units (4 cycles each), and no more than there are registers.
#define ACCUMULATORS 12

typedef float vector __attribute__((vector_size(BYTES)));

extern "C" {

// Multiply-adds of a round.
long fma_per_round() { return ACCUMULATORS * (BYTES / sizeof(float)); }

// Starts from different values and returns a sum, so that no compiler leaves work out.
float fma_rounds(long rounds, float factor, float summand) {
    vector sums[ACCUMULATORS];
    for (int i = 0; i < ACCUMULATORS; i++) sums[i] = (i + summand) - (vector){};
    const vector a = factor - (vector){}, b = summand - (vector){};
    for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) sums[i] = sums[i] * a + b;
    }
    float total = 0;
    for (int i = 0; i < ACCUMULATORS; i++)
        for (int j = 0; j < BYTES / (int)sizeof(float); j++) total += sums[i][j];
    return total;
}

}
