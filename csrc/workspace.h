// Large buffers kept between calls: a fresh one costs a page fault per 4 KiB, more than the work that is done in it.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace robe {

constexpr int64_t kHugePage = 2 << 20;

inline void huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  uintptr_t begin = (uintptr_t(data) + kHugePage - 1) / kHugePage * kHugePage;
  uintptr_t end = (uintptr_t(data) + uintptr_t(bytes)) / kHugePage * kHugePage;
  if (end > begin) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

inline void* allocate(int64_t bytes) {
  const int64_t alignment = bytes >= kHugePage ? kHugePage : 4096;
  void* data = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!data) throw std::bad_alloc();
  if (bytes >= kHugePage) huge_pages(data, bytes);
  return data;
}

// A buffer of at least `bytes`, aligned to a page, with whatever was in it. Two are kept for the next call.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : bytes_(bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      for (Kept& kept : kept_buffers()) {
        if (kept.data && kept.bytes >= bytes && kept.bytes / 4 <= bytes) {
          data_ = kept.data, bytes_ = kept.bytes;
          kept.data = nullptr;
          return;
        }
      }
    }
    data_ = allocate(bytes);
  }
  ~Workspace() {
    void* drop = data_;
    {
      std::lock_guard<std::mutex> lock(mutex());
      Kept* smallest = &kept_buffers()[0];
      for (Kept& kept : kept_buffers()) {
        if (!kept.data || (smallest->data && kept.bytes < smallest->bytes)) smallest = &kept;
      }
      if (bytes_ <= kMostKept && (!smallest->data || smallest->bytes <= bytes_)) {
        drop = smallest->data;
        *smallest = {data_, bytes_};
      }
    }
    free(drop);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  char* data() const { return (char*)data_; }

 private:
  struct Kept {
    void* data;
    int64_t bytes;
  };
  struct KeptBuffers {
    Kept buffers[2];
    Kept* begin() { return buffers; }
    Kept* end() { return buffers + 2; }
    Kept& operator[](int i) { return buffers[i]; }
  };
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kMostKept = -1;  // fresh ones, so that the sanitizer knows their bounds
#else
  static constexpr int64_t kMostKept = 64 << 20;
#endif
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static KeptBuffers& kept_buffers() {
    static KeptBuffers buffers = {};
    return buffers;
  }

  void* data_ = nullptr;
  int64_t bytes_;
};

}  // namespace robe
