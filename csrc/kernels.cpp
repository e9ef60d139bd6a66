// Lookup, its derivatives and the optimizer's step, for one instruction set: ROBE_ISA names it.

#include <math.h>

#include "rows.h"

#define ROBE_JOIN_(a, b) a##b
#define ROBE_JOIN(a, b) ROBE_JOIN_(a, b)
#define ROBE_STRING_(a) #a
#define ROBE_NOINLINE __attribute__((noinline))
#define ROBE_STRING(a) ROBE_STRING_(a)

namespace robe {

// In interaction.cpp, which may contract multiplications and additions.
bool ROBE_JOIN(dot_, ROBE_ISA)(const Plan&, int64_t, int64_t, const void*, void*, char*);
bool ROBE_JOIN(dot_backward_, ROBE_ISA)(const Plan&, int64_t, int64_t, const void*, void*, void*, char*);
void ROBE_JOIN(attend_, ROBE_ISA)(const Attention&, int64_t, int64_t, float*);
void ROBE_JOIN(attend_backward_, ROBE_ISA)(const Attention&, int64_t, int64_t, float*);

namespace {

// ---- Forward, one id per field: rows are copied as bytes, whatever the dtype. ----

// `to` is aligned to 64 bytes and `bytes` a multiple of 64. Streaming leaves the cache to the array.
inline void stream_copy(char* to, const char* from, int64_t bytes) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < bytes; i += 64) _mm512_stream_si512((__m512i*)(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX2__)
  for (int64_t i = 0; i < bytes; i += 32)
    _mm256_stream_si256((__m256i*)(to + i), _mm256_loadu_si256((const __m256i*)(from + i)));
#elif defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += 16)
    _mm_stream_si128((__m128i*)(to + i), _mm_loadu_si128((const __m128i*)(from + i)));
#else
  memcpy(to, from, bytes);
#endif
}

// kSegment: bytes of a segment; 0 where they are known at run time only.
template <int kSegment>
inline void copy_segment(char* to, const char* from, int64_t bytes) {
  if (kSegment) {
    memcpy(to, from, kSegment);
  } else if (bytes % 64 == 0) {
    for (int64_t i = 0; i < bytes; i += 64) memcpy(to + i, from + i, 64);
  } else {
    memcpy(to, from, bytes);
  }
}

// Copies a row from its segments. `limit`: where these wrap, in bytes.
template <int kSegment>
ROBE_INLINE void copy_row(const char* array, const int64_t* starts, int64_t stride, int64_t size, int64_t chunks,
                          int64_t segment, int64_t bytes, int64_t limit, char* to) {
  for (int64_t c = 0, done = 0; c < chunks; c++, done += segment) {
    const int64_t length = kSegment ? kSegment : smaller(segment, bytes - done), at = starts[c * stride] * size;
    if (__builtin_expect(at + length <= limit, 1)) {
      copy_segment<kSegment>(to + done, array + at, length);
    } else {
      memcpy(to + done, array + at, limit - at);
      memcpy(to + done + limit - at, array, length - (limit - at));
    }
  }
}

#if defined(__AVX512F__)
// A row of 64 bytes from its two or four segments, in a register; false where one wraps.
template <int kSegment>
ROBE_INLINE bool load_row(const char* array, const int64_t* starts, int64_t size, int64_t limit, __m512i& row) {
  if (kSegment == 32) {
    const int64_t at0 = starts[0] * size, at1 = starts[kGroup] * size;
    if (at0 + 32 > limit || at1 + 32 > limit) return false;
    row = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)(array + at0)));
    row = _mm512_inserti64x4(row, _mm256_loadu_si256((const __m256i*)(array + at1)), 1);
    return true;
  }
  const int64_t at0 = starts[0] * size, at1 = starts[kGroup] * size;
  const int64_t at2 = starts[2 * kGroup] * size, at3 = starts[3 * kGroup] * size;
  if (at0 + 16 > limit || at1 + 16 > limit || at2 + 16 > limit || at3 + 16 > limit) return false;
  row = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)(array + at0)));
  row = _mm512_inserti32x4(row, _mm_loadu_si128((const __m128i*)(array + at1)), 1);
  row = _mm512_inserti32x4(row, _mm_loadu_si128((const __m128i*)(array + at2)), 2);
  row = _mm512_inserti32x4(row, _mm_loadu_si128((const __m128i*)(array + at3)), 3);
  return true;
}
#endif

// Rows on their way around the cache. A row is streamed kGroup rows after it was staged: reading back at once what was
// written in smaller pieces would wait for these writes.
struct Staged {
  char* const rows;  // [kGroup, bytes]
  const int64_t bytes;
  char* to;  // of the oldest row
  int64_t count = 0;

  // Where to put the next row.
  ROBE_INLINE char* next() {
    char* row = rows + count % kGroup * bytes;
    if (count++ >= kGroup) stream_copy(to, row, bytes), to += bytes;
    return row;
  }
  void flush() {
    for (int64_t k = count > kGroup ? count - kGroup : 0; k < count; k++, to += bytes)
      stream_copy(to, rows + k % kGroup * bytes, bytes);
  }
};

template <int kSegment, bool kStream, bool kOne>
ROBE_NOINLINE bool lookup_plain(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  const int64_t size = p.itemsize, chunks = kOne ? 1 : p.max_chunks, segment = kSegment ? kSegment : p.segment * size;
  const int64_t bytes = p.max_dim * size, limit = p.slots_hashed * size;
  const char* array = (const char*)p.array;
  char* to = (char*)out + begin * p.num_fields * bytes;
  Staged staged = {scratch + ring_bytes(p), bytes, to};
  [[maybe_unused]] const bool one_vector = bytes == 64;
  auto consume = [&](int64_t, const int64_t* starts) ROBE_INLINE_LAMBDA {
    if (kStream && kOne && kSegment == 64) {
      if (__builtin_expect(starts[0] * size + 64 <= limit, 1)) {
        stream_copy(to, array + starts[0] * size, 64);
      } else {
        copy_row<64>(array, starts, kGroup, size, 1, 64, 64, limit, to);
      }
#if defined(__AVX512F__)
    } else if (kStream && (kSegment == 16 || kSegment == 32) && one_vector) {
      __m512i row;
      if (__builtin_expect(load_row<kSegment>(array, starts, size, limit, row), 1)) {
        _mm512_stream_si512((__m512i*)to, row);
      } else {
        copy_row<kSegment>(array, starts, kGroup, size, chunks, kSegment, 64, limit, to);
      }
#endif
    } else {
      if (!kStream) prefetch_store(to, bytes);
      copy_row<kSegment>(array, starts, kGroup, size, chunks, segment, bytes, limit, kStream ? staged.next() : to);
    }
    to += bytes;
  };
  const bool inside =
      for_each_plain<kOne, kSegment, true>(p, begin * p.num_fields, end * p.num_fields, array, size, scratch, consume);
  if (kStream && !(kOne && kSegment == 64)) staged.flush();
  return inside;
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
// Rows of single slots, Z = 1: the slots of 16 elements of a row are computed and gathered together.
template <bool kStream>
ROBE_NOINLINE bool lookup_slots(const Plan& p, int64_t begin, int64_t end, void* out) {
  const PlainRows<false> rows(p);
  const int64_t dim = p.max_dim, num_fields = p.num_fields, first_row = begin * num_fields, last_row = end * num_fields;
  const float* array = (const float*)p.array;
  float* to = (float*)out + first_row * dim;
  const __m512i m = _mm512_set1_epi32(int32_t(p.modulus.m));
  int64_t field = first_row % num_fields;
  bool inside = true;
  for (int64_t n = first_row; n < last_row; n += kGroup) {
    const int64_t count = smaller(kGroup, last_row - n);
    alignas(64) int64_t values[kGroup], firsts[kGroup];
    __m512i value, first;
    inside &= rows.hash(n, field, count, value, first);
    prefetch_load(p.ids + n, kGroup * 8);
    _mm512_store_si512(values, value);
    _mm512_store_si512(firsts, first);
    for (field += kGroup; field >= num_fields;) field -= num_fields;
    for (int64_t r = 0; r < count; r++, to += dim) {
      const __m512i row_value = _mm512_set1_epi64(values[r]), row_first = _mm512_set1_epi32(int32_t(firsts[r]));
      for (int64_t c = 0; c < dim; c += 16) {  // the tables of chunks are padded to a multiple of 16
        const __mmask16 over = _mm512_kunpackb(_mm512_cmpge_epu64_mask(row_value, _mm512_loadu_si512(p.chunk_limit + c + 8)),
                                               _mm512_cmpge_epu64_mask(row_value, _mm512_loadu_si512(p.chunk_limit + c)));
        const __m512i step = _mm512_mask_loadu_epi32(_mm512_loadu_si512(p.narrow_add + c), over, p.narrow_over + c);
        const __m512i slot = _mm512_add_epi32(row_first, step);
        const __m512i at = _mm512_min_epu32(slot, _mm512_sub_epi32(slot, m));
        const __m512 gathered = _mm512_i32gather_ps(at, array, 4);
        if (kStream && dim % 16 == 0) {
          _mm512_stream_ps(to + c, gathered);
        } else {
          prefetch_store(to + c, 64);
          _mm512_mask_storeu_ps(to + c, dim - c >= 16 ? 0xFFFF : __mmask16((1 << (dim - c)) - 1), gathered);
        }
      }
    }
  }
  if (kStream) _mm_sfence();
  return inside;
}
#endif

ROBE_NOINLINE bool lookup_rows(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  const int64_t size = p.itemsize, num_fields = p.num_fields, row_bytes = p.width * size, segment = p.segment * size;
  const char* array = (const char*)p.array;
  char* sample = (char*)out + begin * row_bytes;
  int64_t f = 0;
  auto consume = [&](int64_t, const Field& field, const int64_t* starts) {
    char* to = sample + field.column * size;
    if (starts[0] == kSkipped) {
      memset(to, 0, field.dim * size);
    } else {
      copy_row<0>(array, starts, 1, size, field.chunks, segment, field.dim * size, field.limit * size, to);
    }
    if (++f == num_fields) f = 0, sample += row_bytes;
  };
  return for_each_id<false, true>(p, begin * num_fields, end * num_fields, scratch, consume);
}

template <int kSegment, bool kStream>
bool lookup_segments(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  const bool inside = p.max_chunks == 1 ? lookup_plain<kSegment, kStream, true>(p, begin, end, out, scratch)
                                        : lookup_plain<kSegment, kStream, false>(p, begin, end, out, scratch);
#if defined(__SSE2__)
  if (kStream) _mm_sfence();
#endif
  return inside;
}

template <bool kStream>
bool lookup_any_segment(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  switch (p.uniform ? p.segment * p.itemsize : 0) {
    case 4: return lookup_segments<4, kStream>(p, begin, end, out, scratch);
    case 8: return lookup_segments<8, kStream>(p, begin, end, out, scratch);
    case 16: return lookup_segments<16, kStream>(p, begin, end, out, scratch);
    case 32: return lookup_segments<32, kStream>(p, begin, end, out, scratch);
    case 64: return lookup_segments<64, kStream>(p, begin, end, out, scratch);
    default: return lookup_segments<0, kStream>(p, begin, end, out, scratch);
  }
}

bool lookup(const Plan& p, int64_t begin, int64_t end, void* out, bool stream, char* scratch) {
  if (!p.plain) return lookup_rows(p, begin, end, out, scratch);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if (p.narrow_add && p.itemsize == 4)
    return stream ? lookup_slots<true>(p, begin, end, out) : lookup_slots<false>(p, begin, end, out);
#endif
  return stream ? lookup_any_segment<true>(p, begin, end, out, scratch)
                : lookup_any_segment<false>(p, begin, end, out, scratch);
}

// ---- The same where rows are not copied as they are: signs, int8. T is the type of slots, O of outputs. ----

// kSegment: slots of a segment; 0 where they are known at run time only.
template <class O, int kSegment, bool kOne>
ROBE_NOINLINE bool lookup_int8_plain(const Plan& p, int64_t begin, int64_t end, O* out, char* scratch) {
  const int64_t chunks = kOne ? 1 : p.max_chunks, limit = p.slots_hashed;
  const int64_t dim = kSegment && kOne ? kSegment : p.max_dim, segment = kSegment ? kSegment : p.segment;
  const int8_t* slots = (const int8_t*)p.array;
  const float* scales = p.scales;
  float* const row = (float*)(scratch + ring_bytes(p));
  O* to = out + begin * p.num_fields * dim;
  auto consume = [&](int64_t, const int64_t* starts) ROBE_INLINE_LAMBDA {
    prefetch_store(to, dim * int64_t(sizeof(O)));
    float* values;
    if constexpr (sizeof(O) == sizeof(float)) {
      values = to;
    } else {
      values = row;
    }
    for (int64_t c = 0, done = 0; c < chunks; c++, done += segment) {
      const int64_t length = kSegment ? kSegment : smaller(segment, dim - done), start = starts[c * kGroup];
      if (__builtin_expect(start + length <= limit, 1)) {
        widen_scaled(slots, scales, start, length, values + done);
      } else {
        widen_scaled(slots, scales, start, limit - start, values + done);
        widen_scaled(slots, scales, 0, length - (limit - start), values + done + limit - start);
      }
    }
    if constexpr (sizeof(O) != sizeof(float)) narrow_to<O>(row, dim, to);
    to += dim;
  };
  return for_each_plain<kOne, kSegment, true>(p, begin * p.num_fields, end * p.num_fields, slots, 1, scratch, consume);
}

template <class O, bool kOne>
bool lookup_int8_segments(const Plan& p, int64_t begin, int64_t end, O* out, char* scratch) {
  switch (p.uniform ? p.segment : 0) {
    case 8: return lookup_int8_plain<O, 8, kOne>(p, begin, end, out, scratch);
    case 16: return lookup_int8_plain<O, 16, kOne>(p, begin, end, out, scratch);
    default: return lookup_int8_plain<O, 0, kOne>(p, begin, end, out, scratch);
  }
}

template <class T, class O>
bool lookup_converted_as(const Plan& p, int64_t begin, int64_t end, O* out, char* scratch) {
  if constexpr (sizeof(T) == 1) {
    if (p.plain && !p.sign)
      return p.max_chunks == 1 ? lookup_int8_segments<O, true>(p, begin, end, out, scratch)
                               : lookup_int8_segments<O, false>(p, begin, end, out, scratch);
  }
  Accumulator<T>* row = (Accumulator<T>*)(scratch + ring_bytes(p));
  auto consume = [&](int64_t n, const Field& field, const int64_t* starts) {
    read_row<T>(p, field, p.ids[n], starts, row);
    narrow_to<O>(row, field.dim, out + n / p.num_fields * p.width + field.column);
  };
  return for_each_id<false, true>(p, begin * p.num_fields, end * p.num_fields, scratch, consume);
}

// ---- Bags: formulas (10) and (11), in order of the ids. ----

template <class A>
inline A larger(A a, A b) {
  return b > a || b != b ? b : a;  // NaN stays
}

template <class T, class O>
bool lookup_bags_as(const Plan& p, int64_t begin, int64_t end, O* out, char* scratch) {
  typedef Accumulator<T> A;
  A* row = (A*)(scratch + ring_bytes(p));
  A* total = row + p.max_dim;
  const O* weights = (const O*)p.weights;
  int64_t bag = begin, count = 0;
  auto close = [&] {
    const Field& field = p.fields[bag / p.batch_size];
    O* to = out + bag % p.batch_size * p.width + field.column;
    if (count == 0) {
      for (int64_t i = 0; i < field.dim; i++) total[i] = 0;
    } else if (p.mode == ROBE_MEAN) {
      for (int64_t i = 0; i < field.dim; i++) total[i] /= A(count);
    }
    narrow_to<O>(total, field.dim, to);
    bag++, count = 0;
  };
  auto consume = [&](int64_t n, const Field& field, const int64_t* starts) {
    while (n >= p.offsets[bag + 1]) close();
    if (starts[0] == kSkipped) return;
    if (count++ == 0) {
      for (int64_t i = 0; i < field.dim; i++) total[i] = p.mode == ROBE_MAX ? A(-INFINITY) : A(0);
    }
    read_row<T>(p, field, p.ids[n], starts, row);
    if (p.mode == ROBE_MAX) {
      for (int64_t i = 0; i < field.dim; i++) total[i] = larger(total[i], row[i]);
    } else if (weights) {
      A w = widen(weights[n]);
      for (int64_t i = 0; i < field.dim; i++) total[i] += row[i] * w;
    } else {
      for (int64_t i = 0; i < field.dim; i++) total[i] += row[i];
    }
  };
  bool inside = for_each_id<true, true>(p, p.offsets[begin], p.offsets[end], scratch, consume);
  while (bag < end) close();
  return inside;
}

// ---- Derivatives. ----

// Formula (13). Ranges are of ids.
template <class T>
bool grad_weights_as(const Plan& p, int64_t begin, int64_t end, T* out, char* scratch) {
  typedef Accumulator<T> A;
  A* row = (A*)(scratch + ring_bytes(p));
  const T* grad = (const T*)p.grad;
  int64_t bag = 0;
  if (begin < end) {  // the bag of the first id: the last bound that is not behind it
    int64_t above = p.num_fields * p.batch_size;
    while (above - bag > 1) {
      int64_t middle = bag + (above - bag) / 2;
      (p.offsets[middle] <= begin ? bag : above) = middle;
    }
  }
  auto consume = [&](int64_t n, const Field& field, const int64_t* starts) {
    while (n >= p.offsets[bag + 1]) bag++;
    read_row<T>(p, field, p.ids[n], starts, row);
    const T* from = grad + bag % p.batch_size * p.width + field.column;
    A sum = 0;
    for (int64_t i = 0; i < field.dim; i++) sum += widen(from[i]) * row[i];
    out[n] = narrow<T>(sum);
  };
  return for_each_id<true, true>(p, begin, end, scratch, consume);
}

// The factors of formula (12) where they are not all 1: with `per_id` f_j g ∂v for every id, else ∂v / n or g ∂v for
// every sample and field. Ranges are of bags; of samples without offsets.
template <class T>
void grad_rows_as(const Plan& p, int64_t begin, int64_t end, Accumulator<T>* rows, bool per_id, char* scratch) {
  typedef Accumulator<T> A;
  int64_t* starts = (int64_t*)scratch;
  A* row = (A*)(scratch + ring_bytes(p));
  A* best = row + p.max_dim;
  int64_t* winner = (int64_t*)(best + p.max_dim);
  const T* grad = (const T*)p.grad;
  const T* weights = (const T*)p.weights;
  if (!p.offsets) {
    for (int64_t n = begin * p.num_fields; n < end * p.num_fields; n++) {
      const Field& field = p.fields[n % p.num_fields];
      int64_t at = n / p.num_fields * p.width + field.column;
      widen_to<T>(grad + at, field.dim, rows + at);
      if (p.sign && !field.direct) multiply_signs(p, field, p.ids[n], rows + at);
    }
    return;
  }
  for (int64_t bag = begin; bag < end; bag++) {
    const int64_t f = bag / p.batch_size, first = p.offsets[bag], last = p.offsets[bag + 1];
    const Field& field = p.fields[f];
    const int64_t at = bag % p.batch_size * p.width + field.column;
    int64_t count = 0;
    for (int64_t n = first; n < last; n++) count += !(field.has_padding && p.ids[n] == field.padding);
    widen_to<T>(grad + at, field.dim, row);
    if (p.mode == ROBE_MEAN && count) {
      for (int64_t i = 0; i < field.dim; i++) row[i] /= A(count);
    }
    if (!per_id) {
      for (int64_t i = 0; i < field.dim; i++) rows[at + i] = row[i];
      continue;
    }
    A* to = rows + field.first_row + (first - p.offsets[f * p.batch_size]) * field.dim;
    if (p.mode == ROBE_MAX) {
      for (int64_t i = 0; i < field.dim; i++) winner[i] = -1;
      for (int64_t n = first; n < last; n++) {
        place(p, field, p.ids[n], starts);
        if (starts[0] == kSkipped) continue;
        A* value = to;  // overwritten below
        read_row<T>(p, field, p.ids[n], starts, value);
        for (int64_t i = 0; i < field.dim; i++) {
          if (winner[i] < 0 || value[i] > best[i] || (value[i] != value[i] && best[i] == best[i]))
            best[i] = value[i], winner[i] = n;
        }
      }
    }
    for (int64_t n = first; n < last; n++, to += field.dim) {
      A w = weights ? widen(weights[n]) : A(1);
      for (int64_t i = 0; i < field.dim; i++) {
        bool wins = p.mode != ROBE_MAX || (winner[i] == n && best[i] == best[i]);
        to[i] = wins ? row[i] * w : A(0);
      }
      if (p.sign && !field.direct) multiply_signs(p, field, p.ids[n], to);
    }
  }
}

ROBE_INLINE void append(Router& router, int64_t bucket, const void* entry, int64_t bytes) {
  char* at = router.cursor[bucket];
  // A cursor at the start of a block has just left a full one: blocks are aligned to their size.
  if (__builtin_expect((uintptr_t(at) & (kBlockBytes - 1)) == 0, 0)) {
    uint32_t block = router.used++;
    char* start = router.arena + block * kBlockBytes;
    if (at) {
      router.next[(at - router.arena) / kBlockBytes - 1] = block;
    } else {
      router.head[bucket] = block;
    }
    at = start;
  }
  memcpy(at, entry, bytes);
  router.cursor[bucket] = at + bytes;
}

template <bool kWide>
ROBE_INLINE void route_piece(const Buckets& buckets, Router& router, int64_t source, int64_t start,
                        int64_t length) {
  int64_t k = bucket_of(buckets, start), last = bucket_of(buckets, start + length - 1);
  for (; k <= last; k++) {
    int64_t slot = start - buckets.begin[k];
    if (kWide) {
      WideEntry entry = {source, int32_t(slot), int32_t(length)};
      append(router, k, &entry, sizeof entry);
    } else {
      Entry entry = {uint32_t(source), int32_t(slot)};
      append(router, k, &entry, sizeof entry);
    }
  }
}

// Routes segment [start, start + length), whose gradient begins at `source`.
template <bool kWide>
ROBE_INLINE void route_segment(const Buckets& buckets, Router& router, int64_t source, int64_t start, int64_t length,
                               int64_t limit) {
  if (__builtin_expect(start + length <= limit, 1)) {
    route_piece<kWide>(buckets, router, source, start, length);
    return;
  }
  const int64_t head = limit - start;
  if (kWide) {
    route_piece<true>(buckets, router, source, start, head);
    route_piece<true>(buckets, router, source + head, 0, length - head);
    return;
  }
  // Narrow entries hold no length, so both parts of a segment that wraps are clipped when they are read: the first at
  // the end of the array (narrow entries need the hashed part to end there), the second at slot 0.
  for (int64_t k = bucket_of(buckets, start); k < buckets.count; k++) {
    Entry entry = {uint32_t(source), int32_t(start - buckets.begin[k])};
    append(router, k, &entry, sizeof entry);
  }
  for (int64_t k = 0, last = bucket_of(buckets, length - head - 1); k <= last; k++) {
    Entry entry = {uint32_t(source), int32_t(-head - buckets.begin[k])};
    append(router, k, &entry, sizeof entry);
  }
}

template <bool kOne>
ROBE_NOINLINE bool route_plain(const Plan& p, int64_t begin, int64_t end, const Buckets& given_buckets,
                               Router& given_router, char* scratch) {
  const Buckets buckets = given_buckets;  // copies: writing entries could alias the originals
  Router router = given_router;
  const int64_t dim = p.max_dim, segment = p.segment, chunks = kOne ? 1 : p.max_chunks, limit = p.slots_hashed;
  auto consume = [&](int64_t n, const int64_t* starts) ROBE_INLINE_LAMBDA {
    for (int64_t c = 0; c < chunks; c++)
      route_segment<false>(buckets, router, n * dim + c * segment, starts[c * kGroup], segment, limit);
  };
  bool inside = for_each_plain<kOne, 0, false>(p, begin * p.num_fields, end * p.num_fields, nullptr, 0, scratch, consume);
  given_router.used = router.used;
  return inside;
}

template <bool kWide, bool kBags>
ROBE_NOINLINE bool route_any(const Plan& p, int64_t begin, int64_t end, const Buckets& buckets, Router& router,
                             bool per_id, char* scratch) {
  int64_t bag = kBags ? begin : 0;
  auto consume = [&](int64_t n, const Field& field, const int64_t* starts) {
    if (kBags) {
      while (n >= p.offsets[bag + 1]) bag++;
    }
    if (starts[0] == kSkipped) return;
    int64_t source;
    if (per_id) {
      source = field.first_row + (n - p.offsets[(&field - p.fields) * p.batch_size]) * field.dim;
    } else if (kBags) {
      source = bag % p.batch_size * p.width + field.column;
    } else {
      source = n / p.num_fields * p.width + field.column;
    }
    for (int64_t c = 0; c < field.chunks; c++, source += p.segment)
      route_segment<kWide>(buckets, router, source, starts[c], segment_length(p, field, c), field.limit);
  };
  return for_each_id<kBags, false>(p, kBags ? p.offsets[begin] : begin * p.num_fields,
                                   kBags ? p.offsets[end] : end * p.num_fields, scratch, consume);
}

bool route(const Plan& p, int64_t begin, int64_t end, const Buckets& buckets, Router& router, bool wide, bool per_id,
           char* scratch) {
  if (p.offsets) {
    return wide ? route_any<true, true>(p, begin, end, buckets, router, per_id, scratch)
                : route_any<false, true>(p, begin, end, buckets, router, per_id, scratch);
  }
  if (p.plain && !wide) {
    return p.max_chunks == 1 ? route_plain<true>(p, begin, end, buckets, router, scratch)
                             : route_plain<false>(p, begin, end, buckets, router, scratch);
  }
  return wide ? route_any<true, false>(p, begin, end, buckets, router, per_id, scratch)
              : route_any<false, false>(p, begin, end, buckets, router, per_id, scratch);
}

inline int64_t length_of(const Entry&, int64_t uniform_length) { return uniform_length; }
inline int64_t length_of(const WideEntry& entry, int64_t) { return entry.length; }

inline void touch(uint64_t* touched, int64_t slot) { touched[slot >> 10] |= uint64_t(1) << (slot >> 4 & 63); }

// Walks the entries of a bucket through their blocks.
template <class E>
struct Chain {
  const Router& router;
  const char* end;
  uint32_t block;
  const E *entry, *stop;

  Chain(const Router& r, int64_t bucket) : router(r), end(r.cursor[bucket]) {
    if (end) enter(r.head[bucket]);
  }
  ROBE_INLINE bool done() const { return (const char*)entry == end; }
  ROBE_INLINE void advance() {
    if (++entry == stop && !done()) enter(router.next[block]);
  }

 private:
  void enter(uint32_t next) {
    block = next;
    entry = (const E*)(router.arena + block * kBlockBytes);
    stop = entry + kBlockBytes / sizeof(E);
  }
};

// kLength: elements of every segment; 0 where they are known at run time only.
template <class G, int kLength, class E>
ROBE_NOINLINE void add_entries(const G* grad, const Router& router, int64_t uniform_length, int64_t bucket,
                               int64_t size, Accumulator<G>* sums, uint64_t* touched) {
  if (!router.cursor[bucket]) return;
  Chain<E> chain(router, bucket), warm(router, bucket);
  auto prefetch_next = [&]() ROBE_INLINE_LAMBDA {
    if (warm.done()) return;
    __builtin_prefetch(grad + warm.entry->source);
    warm.advance();
  };
  for (int i = 0; i < 16; i++) prefetch_next();
  for (; !chain.done(); chain.advance()) {
    prefetch_next();
    const E entry = *chain.entry;
    const int64_t slot = entry.slot, length = kLength ? kLength : length_of(entry, uniform_length);
    const G* from = grad + entry.source;
    if (__builtin_expect(slot >= 0 && slot + length <= size, 1)) {
      Accumulator<G>* to = sums + slot;
      for (int64_t i = 0; i < length; i++) to[i] += widen(from[i]);
      if (touched) {
        for (int64_t i = slot; i < slot + length; i = (i | 15) + 1) touch(touched, i);
      }
    } else {
      const int64_t last = smaller(slot + length, size);
      for (int64_t i = slot < 0 ? 0 : slot; i < last; i++) {
        sums[i] += widen(from[i - slot]);
        if (touched) touch(touched, i);
      }
    }
  }
}

template <class G>
void add_bucket(const Plan& p, const G* grad, const Router& router, bool wide, int64_t bucket, int64_t size,
                Accumulator<G>* sums, uint64_t* touched) {
  if (wide) return add_entries<G, 0, WideEntry>(grad, router, 0, bucket, size, sums, touched);
  if constexpr (sizeof(G) == sizeof(float)) {  // as in add_rows_as()
    switch (p.segment) {
      case 1: return add_entries<G, 1, Entry>(grad, router, 1, bucket, size, sums, touched);
      case 2: return add_entries<G, 2, Entry>(grad, router, 2, bucket, size, sums, touched);
      case 4: return add_entries<G, 4, Entry>(grad, router, 4, bucket, size, sums, touched);
      case 8: return add_entries<G, 8, Entry>(grad, router, 8, bucket, size, sums, touched);
      case 16: return add_entries<G, 16, Entry>(grad, router, 16, bucket, size, sums, touched);
    }
  }
  return add_entries<G, 0, Entry>(grad, router, p.segment, bucket, size, sums, touched);
}

// Adds the gradients of samples begin to end of a plain plan to slots [slot_begin, slot_end) of `sums`, in order of rows.
template <class T, int kSegment, bool kOne>
ROBE_NOINLINE bool add_rows_plain(const Plan& p, int64_t begin, int64_t end, int64_t slot_begin, int64_t slot_end,
                                  Accumulator<T>* sums, char* scratch) {
  typedef Accumulator<T> A;
  const int64_t dim = p.max_dim, segment = kSegment ? kSegment : p.segment, chunks = kOne ? 1 : p.max_chunks;
  const int64_t limit = p.slots_hashed, whole_end = smaller(slot_end, limit);
  const T* grad = (const T*)p.grad + begin * p.num_fields * dim;
  auto consume = [&](int64_t, const int64_t* starts) ROBE_INLINE_LAMBDA {
    prefetch_load(grad, dim * int64_t(sizeof(T)));
    for (int64_t c = 0, done = 0; c < chunks; c++, done += segment) {
      const int64_t start = starts[c * kGroup], length = kSegment ? kSegment : smaller(segment, dim - done);
      const T* __restrict from = grad + done;
      if (__builtin_expect(start >= slot_begin && start + length <= whole_end, 1)) {
        A* __restrict to = sums + start;
        for (int64_t i = 0; i < length; i++) to[i] += widen(from[i]);
      } else if ((start < slot_end && start + length > slot_begin) || start + length - limit > slot_begin) {
        for (int64_t i = 0; i < length; i++) {
          const int64_t slot = start + i - (start + i >= limit ? limit : 0);
          if (slot >= slot_begin && slot < slot_end) sums[slot] += widen(from[i]);
        }
      }
    }
    grad += dim;
  };
  return for_each_plain<kOne, kSegment * int(sizeof(A)), true>(p, begin * p.num_fields, end * p.num_fields, sums,
                                                              sizeof(A), scratch, consume);
}

template <class T, int kSegment>
bool add_rows_segments(const Plan& p, int64_t begin, int64_t end, int64_t slot_begin, int64_t slot_end,
                       Accumulator<T>* sums, char* scratch) {
  return p.max_chunks == 1 ? add_rows_plain<T, kSegment, true>(p, begin, end, slot_begin, slot_end, sums, scratch)
                           : add_rows_plain<T, kSegment, false>(p, begin, end, slot_begin, slot_end, sums, scratch);
}

template <class T>
bool add_rows_as(const Plan& p, int64_t begin, int64_t end, int64_t slot_begin, int64_t slot_end,
                 Accumulator<T>* sums, char* scratch) {
  if constexpr (sizeof(T) == sizeof(float)) {  // the dtype of training; every length built in costs time to compile
    switch (p.uniform ? p.segment : 0) {
      case 1: return add_rows_segments<T, 1>(p, begin, end, slot_begin, slot_end, sums, scratch);
      case 4: return add_rows_segments<T, 4>(p, begin, end, slot_begin, slot_end, sums, scratch);
      case 8: return add_rows_segments<T, 8>(p, begin, end, slot_begin, slot_end, sums, scratch);
      case 16: return add_rows_segments<T, 16>(p, begin, end, slot_begin, slot_end, sums, scratch);
    }
  }
  return add_rows_segments<T, 0>(p, begin, end, slot_begin, slot_end, sums, scratch);
}

// ---- Optimizers: torch.optim's formulas on slots [begin, begin + n) of a bucket, whose sums become zero. ----

template <class A>
struct Slots {
  A *__restrict array, *__restrict state1, *__restrict state2, *__restrict grad;
};

template <class A>
ROBE_INLINE void sgd(const robe_update& u, Slots<A> s, int64_t n) {
  const A lr = A(u.lr), decay = A(u.weight_decay), sign = u.maximize ? A(-1) : A(1);
  for (int64_t i = 0; i < n; i++) {
    s.array[i] -= lr * (sign * s.grad[i] + decay * s.array[i]);
    s.grad[i] = 0;
  }
}

template <class A>
ROBE_INLINE void sgd_momentum(const robe_update& u, Slots<A> s, int64_t n) {
  const A lr = A(u.lr), decay = A(u.weight_decay), momentum = A(u.momentum), fresh = A(1 - u.dampening);
  const A sign = u.maximize ? A(-1) : A(1);
  for (int64_t i = 0; i < n; i++) {
    A g = sign * s.grad[i] + decay * s.array[i];
    A buffer = u.first ? g : momentum * s.state1[i] + fresh * g;
    s.state1[i] = buffer;
    s.array[i] -= lr * (u.nesterov ? g + momentum * buffer : buffer);
    s.grad[i] = 0;
  }
}

template <class A>
ROBE_INLINE void adagrad(const robe_update& u, Slots<A> s, int64_t n) {
  const A lr = A(u.lr), decay = A(u.weight_decay), eps = A(u.eps), sign = u.maximize ? A(-1) : A(1);
  for (int64_t i = 0; i < n; i++) {
    A g = sign * s.grad[i] + decay * s.array[i];
    A sum = s.state1[i] + g * g;
    s.state1[i] = sum;
    s.array[i] -= lr * g / (sqrt(sum) + eps);
    s.grad[i] = 0;
  }
}

template <class A>
ROBE_INLINE void adam(const robe_update& u, Slots<A> s, int64_t n) {
  const A rate = A(u.lr / u.bias1), root = A(1 / sqrt(u.bias2)), decay = A(u.weight_decay), eps = A(u.eps);
  const A beta1 = A(u.beta1), beta2 = A(u.beta2), fresh1 = A(1 - u.beta1), fresh2 = A(1 - u.beta2);
  const A sign = u.maximize ? A(-1) : A(1);
  for (int64_t i = 0; i < n; i++) {
    A g = sign * s.grad[i] + decay * s.array[i];
    A first = beta1 * s.state1[i] + fresh1 * g, second = beta2 * s.state2[i] + fresh2 * g * g;
    s.state1[i] = first, s.state2[i] = second;
    s.array[i] -= rate * first / (sqrt(second) * root + eps);
    s.grad[i] = 0;
  }
}

// torch.optim.SparseAdam's: slots without gradient keep their moments.
template <class A>
ROBE_INLINE void sparse_adam(const robe_update& u, Slots<A> s, int64_t n) {
  const A rate = A(u.lr * sqrt(u.bias2) / u.bias1), eps = A(u.eps), sign = u.maximize ? A(-1) : A(1);
  const A fresh1 = A(1 - u.beta1), fresh2 = A(1 - u.beta2);
  for (int64_t i = 0; i < n; i++) {
    const A g = sign * s.grad[i];
    const A first = s.state1[i] + fresh1 * (g - s.state1[i]), second = s.state2[i] + fresh2 * (g * g - s.state2[i]);
    const A changed = s.array[i] - rate * first / (sqrt(second) + eps);
    s.state1[i] = g == 0 ? s.state1[i] : first, s.state2[i] = g == 0 ? s.state2[i] : second;
    s.array[i] = g == 0 ? s.array[i] : changed;
    s.grad[i] = 0;
  }
}

// `touched`: the lines of 16 slots that have a gradient; null to update them all.
template <class A, void rule(const robe_update&, Slots<A>, int64_t)>
ROBE_NOINLINE void update_by(const Plan& p, const robe_update& update, A* sums, int64_t begin, int64_t end,
                             uint64_t* touched) {
  const robe_update u = update;
  A *array = (A*)p.array + begin, *state1 = u.state1 ? (A*)u.state1 + begin : nullptr,
    *state2 = u.state2 ? (A*)u.state2 + begin : nullptr;
  const int64_t size = end - begin;
  if (!touched) return rule(u, {array, state1, state2, sums}, size);
  constexpr int64_t kAhead = 16;
  int32_t waiting[kAhead];  // lines on their way into the cache
  int64_t count = 0;
  auto apply = [&](int64_t i) {
    rule(u, {array + i, state1 ? state1 + i : nullptr, state2 ? state2 + i : nullptr, sums + i}, smaller(16, size - i));
  };
  for (int64_t word = 0; word * 1024 < size; word++) {
    for (uint64_t bits = touched[word]; bits; bits &= bits - 1) {
      const int64_t i = word * 1024 + __builtin_ctzll(bits) * 16;
      for (int64_t byte = 0; byte < int64_t(16 * sizeof(A)); byte += 64) {
        __builtin_prefetch((char*)(array + i) + byte, 1);
        if (state1) __builtin_prefetch((char*)(state1 + i) + byte, 1);
        if (state2) __builtin_prefetch((char*)(state2 + i) + byte, 1);
      }
      int32_t& slot = waiting[count++ % kAhead];
      if (count > kAhead) apply(slot);
      slot = int32_t(i);
    }
    touched[word] = 0;
  }
  for (int64_t left = smaller(count, kAhead); left > 0; left--) apply(waiting[(count - left) % kAhead]);
}

template <class A>
void update_as(const Plan& p, const robe_update& u, A* sums, int64_t begin, int64_t end, uint64_t* touched) {
  switch (u.rule) {
    case ROBE_SGD:
      if (u.state1) return update_by<A, sgd_momentum<A>>(p, u, sums, begin, end, touched);
      return update_by<A, sgd<A>>(p, u, sums, begin, end, touched);
    case ROBE_ADAGRAD: return update_by<A, adagrad<A>>(p, u, sums, begin, end, touched);
    case ROBE_SPARSE_ADAM: return update_by<A, sparse_adam<A>>(p, u, sums, begin, end, touched);
    default: return update_by<A, adam<A>>(p, u, sums, begin, end, touched);
  }
}

// ---- Dispatch over dtypes. ----

#define ROBE_DTYPES(p, CALL)                     \
  switch ((p).dtype) {                           \
    case ROBE_FLOAT32: { typedef float T; CALL; } \
    case ROBE_FLOAT64: { typedef double T; CALL; } \
    case ROBE_BFLOAT16: { typedef bfloat16 T; CALL; } \
    default: { typedef float16 T; CALL; }         \
  }

// Types of slots and of outputs.
#define ROBE_LOOKUP_DTYPES(p, CALL)                                         \
  if ((p).dtype != ROBE_INT8) {                                             \
    ROBE_DTYPES(p, typedef T O; CALL)                                       \
  }                                                                         \
  typedef int8_t T;                                                         \
  switch ((p).out_dtype) {                                                  \
    case ROBE_FLOAT32: { typedef float O; CALL; }                           \
    case ROBE_BFLOAT16: { typedef bfloat16 O; CALL; }                       \
    default: { typedef float16 O; CALL; }                                   \
  }

bool lookup_converted(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  ROBE_LOOKUP_DTYPES(p, return (lookup_converted_as<T, O>(p, begin, end, (O*)out, scratch)))
}
bool lookup_bags(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  ROBE_LOOKUP_DTYPES(p, return (lookup_bags_as<T, O>(p, begin, end, (O*)out, scratch)))
}
bool grad_weights(const Plan& p, int64_t begin, int64_t end, void* out, char* scratch) {
  ROBE_DTYPES(p, return grad_weights_as<T>(p, begin, end, (T*)out, scratch))
}
void grad_rows(const Plan& p, int64_t begin, int64_t end, void* rows, bool per_id, char* scratch) {
  ROBE_DTYPES(p, return grad_rows_as<T>(p, begin, end, (Accumulator<T>*)rows, per_id, scratch))
}
void add_to_bucket(const Plan& p, const Source& source, const Router& router, bool wide, int64_t bucket, int64_t begin,
                   int64_t end, void* sums, uint64_t* touched) {
  if (source.converted) {
    if (p.dtype == ROBE_FLOAT64)
      return add_bucket(p, (const double*)source.data, router, wide, bucket, end - begin, (double*)sums, touched);
    return add_bucket(p, (const float*)source.data, router, wide, bucket, end - begin, (float*)sums, touched);
  }
  ROBE_DTYPES(p, return add_bucket(p, (const T*)source.data, router, wide, bucket, end - begin, (Accumulator<T>*)sums,
                                   touched))
}
bool add_rows(const Plan& p, int64_t begin, int64_t end, int64_t slot_begin, int64_t slot_end, void* sums,
              char* scratch) {
  ROBE_DTYPES(p, return add_rows_as<T>(p, begin, end, slot_begin, slot_end, (Accumulator<T>*)sums, scratch))
}
void add_sums(const Plan& p, const void* from, int64_t n, void* to) {
  if (p.dtype == ROBE_FLOAT64) {
    for (int64_t i = 0; i < n; i++) ((double*)to)[i] += ((const double*)from)[i];
  } else {
    for (int64_t i = 0; i < n; i++) ((float*)to)[i] += ((const float*)from)[i];
  }
}
void store_bucket(const Plan& p, const void* sums, int64_t begin, int64_t end, void* out) {
  ROBE_DTYPES(p, return narrow_to<T>((const Accumulator<T>*)sums, end - begin, (T*)out + begin))
}
void update_bucket(const Plan& p, const robe_update& u, void* sums, int64_t begin, int64_t end, uint64_t* touched) {
  if (p.dtype == ROBE_FLOAT64) return update_as(p, u, (double*)sums, begin, end, touched);
  return update_as(p, u, (float*)sums, begin, end, touched);
}

}  // namespace

const Kernels ROBE_JOIN(kernels_, ROBE_ISA) = {
    ROBE_STRING(ROBE_ISA),
    lookup,
    lookup_converted,
    lookup_bags,
    grad_weights,
    grad_rows,
    route,
    add_to_bucket,
    add_rows,
    add_sums,
    store_bucket,
    update_bucket,
    ROBE_JOIN(dot_, ROBE_ISA),
    ROBE_JOIN(dot_backward_, ROBE_ISA),
    ROBE_JOIN(attend_, ROBE_ISA),
    ROBE_JOIN(attend_backward_, ROBE_ISA),
};

}  // namespace robe
