// Where an embedding lives in the array: the twin of src/robe/hashing.py. Formula numbers are those of docs/robe.md.
//
// Functions are static: several translation units compile them for different processors, and the linker must not
// merge those.
#pragma once

#include <stdint.h>

namespace robe {

typedef unsigned __int128 uint128;

constexpr uint64_t kMersenne61 = (uint64_t(1) << 61) - 1;
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

// x mod m for x < 2^61 and m < 2^61 by one multiplication. With 2^(bits-1) < m <= 2^bits the magic number is
// ceil(2^(61 + bits) / m), at most 2^62, and its error of less than m <= 2^bits never reaches the quotient.
struct Modulus {
  uint64_t m, magic;
  int bits;
};

static inline Modulus make_modulus(uint64_t m) {
  int bits = 0;
  while ((uint64_t(1) << bits) < m) bits++;
  // The largest case, m = 2^bits, gives 2^61; the next largest less than 2^62. 2^(61 + bits) needs 128 bits.
  return {m, uint64_t(((uint128(1) << (61 + bits)) + m - 1) / m), bits};
}

static inline uint64_t mod(uint64_t x, const Modulus& by) {
  uint64_t quotient = uint64_t((uint128(x << 3) * by.magic) >> 64) >> by.bits;
  return x - quotient * by.m;
}

// (multiplier key + addend) mod (2^61 - 1), exact for every 64-bit key.
static inline uint64_t linear_mersenne(uint64_t key, uint64_t multiplier, uint64_t addend) {
  uint64_t residue = (key & kMersenne61) + (key >> 61);                        // < 2^61 + 7
  uint128 product = uint128(residue) * (multiplier << 3);                      // its high half: the product >> 61
  uint64_t sum = uint64_t(product >> 64) + (uint64_t(product) >> 3) + addend;  // < 2^63
  sum = (sum & kMersenne61) + (sum >> 61);                                     // < 2^61 + 3
  return sum >= kMersenne61 ? sum - kMersenne61 : sum;
}

// (multiplier key + addend) mod prime, for any prime up to 2^61 - 1.
static inline uint64_t linear(uint64_t key, uint64_t multiplier, uint64_t addend, uint64_t prime) {
  if (prime == kMersenne61) return linear_mersenne(key, multiplier, addend);
  uint64_t residue = key % prime;
  uint64_t product = prime >> 32 ? uint64_t(uint128(residue) * multiplier % prime) : residue * multiplier % prime;
  uint64_t sum = product + addend;
  return sum >= prime ? sum - prime : sum;
}

// The finalizer of splitmix64.
static inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace robe
