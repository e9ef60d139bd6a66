// What the machine can do at best, in the access patterns of a lookup. Built and called by limits.py.

#include <stdint.h>
#include <string.h>

#include <immintrin.h>

extern "C" {

// Copies rows of 64 bytes from known positions (in floats), prefetched ahead; around the cache or into it.
void gather(const float* array, const int64_t* positions, int64_t rows, float* out, int stream, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < (rows + 4095) / 4096; block++) {
    int64_t begin = block * 4096, end = begin + 4096 < rows ? begin + 4096 : rows;
    for (int64_t r = begin; r < end; r++) {
      int64_t ahead = r + 32 < rows ? r + 32 : rows - 1;
      __builtin_prefetch(array + positions[ahead]);
      __builtin_prefetch(array + positions[ahead] + 15);
      if (!stream) __builtin_prefetch(out + (r + 24) * 16, 1);
      const float* from = array + positions[r];
      __m256 low = _mm256_loadu_ps(from), high = _mm256_loadu_ps(from + 8);
      if (stream) {
        _mm256_stream_ps(out + r * 16, low), _mm256_stream_ps(out + r * 16 + 8, high);
      } else {
        _mm256_store_ps(out + r * 16, low), _mm256_store_ps(out + r * 16 + 8, high);
      }
    }
  }
}

// Adds rows of 16 floats at known positions to an array of zeros, threads racing: the sum is wrong where two meet, and no
// correct backward that shares one gradient among threads can be faster.
void race(const float* grad, const int64_t* positions, int64_t rows, float* array, int64_t slots, int threads) {
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t block = 0; block < (slots + 4095) / 4096; block++) {
      int64_t end = (block + 1) * 4096 < slots ? (block + 1) * 4096 : slots;
      memset(array + block * 4096, 0, (end - block * 4096) * 4);
    }
#pragma omp for schedule(static)
    for (int64_t block = 0; block < (rows + 4095) / 4096; block++) {
      int64_t begin = block * 4096, end = begin + 4096 < rows ? begin + 4096 : rows;
      for (int64_t r = begin; r < end; r++) {
        int64_t ahead = r + 32 < rows ? r + 32 : rows - 1;
        __builtin_prefetch(array + positions[ahead], 1);
        __builtin_prefetch(array + positions[ahead] + 15, 1);
        float* to = array + positions[r];
        for (int i = 0; i < 16; i += 8)
          _mm256_storeu_ps(to + i, _mm256_add_ps(_mm256_loadu_ps(to + i), _mm256_loadu_ps(grad + r * 16 + i)));
      }
    }
  }
}

void fill(float* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < count / 4096; block++) {
    for (int64_t i = block * 4096; i < (block + 1) * 4096; i += 8) _mm256_stream_ps(out + i, _mm256_set1_ps(1));
  }
}
}
