// The C interface of the CPU kernels: what src/robe/ops/cpu.py calls. Plain pointers and integers, so that one binary
// serves every version of torch. Shapes and words are those of src/robe/ops/contract.py; tensors are contiguous.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define ROBE_API extern "C" __declspec(dllexport)
#else
#define ROBE_API extern "C" __attribute__((visibility("default")))
#endif

enum { ROBE_ABI = 5 };  // raised with every change of this file

enum robe_status { ROBE_OK = 0, ROBE_BAD_ID = 1, ROBE_BAD_OFFSETS = 2, ROBE_BAD_SPEC = 3, ROBE_NO_MEMORY = 4 };
enum robe_dtype { ROBE_FLOAT32 = 0, ROBE_FLOAT64 = 1, ROBE_BFLOAT16 = 2, ROBE_FLOAT16 = 3, ROBE_INT8 = 4 };
enum robe_mode { ROBE_SUM = 0, ROBE_MEAN = 1, ROBE_MAX = 2 };
enum robe_form { ROBE_UNIVERSAL = 0, ROBE_RELEASED = 1, ROBE_MIXED = 2 };
enum robe_rule { ROBE_SGD = 0, ROBE_ADAGRAD = 1, ROBE_ADAM = 2, ROBE_SPARSE_ADAM = 3 };

// robe.layout.FieldSpec
struct robe_field {
  int64_t direct, addend, sign_addend, dim, rows, base, column, has_padding, padding;
};

// robe.hashing.HashSpec
struct robe_spec {
  int64_t form, prime, key_multiplier, chunk_multiplier, sign_key_multiplier, sign_element_multiplier;
  int64_t block_size, num_slots, use_sign;
};

struct robe_array {
  void* data;  // [slots]
  int64_t slots;
  int64_t dtype;        // int8: for lookups alone, without interaction
  const float* scales;  // of int8: one for every 64 slots, formula (15); else null
  int64_t out_dtype;    // of embeddings and of weights of bags: `dtype`; for int8 float32, bfloat16 or float16
};

// One lookup: the arguments of the op. With `grad` also one backward.
struct robe_batch {
  const int64_t* ids;      // [batch_size, num_fields], or [num_ids] with offsets
  const int64_t* offsets;  // null, or [num_fields * batch_size + 1]
  const void* weights;     // null, or [num_ids] in the dtype of the output
  const robe_field* fields;
  const robe_spec* spec;
  const void* grad;  // [batch_size, width] in the dtype of the array
  int64_t num_ids, num_fields, batch_size, width, mode;
};

// One step of a torch.optim rule. States are [slots] in the dtype of the array, or null where the rule has none.
struct robe_update {
  int64_t rule, maximize, nesterov, first;  // first: the momentum buffer is still to be filled
  double lr, weight_decay, momentum, dampening;
  double beta1, beta2, eps, bias1, bias2;  // bias: 1 - beta^t
  void* state1;                            // momentum, sum of squares, first moment
  void* state2;                            // second moment
};

// Fields of one id each and what is computed from them once: for lookups too small to do so every time.
typedef struct robe_prepared robe_prepared;

ROBE_API int robe_abi(void);
ROBE_API const char* robe_isa(void);

// out [batch_size, width]: formulas (9) to (11) of docs/robe.md.
ROBE_API int robe_lookup(const robe_array*, const robe_batch*, void* out, int64_t threads);
// The same, prepared. Of the array only slots and dtypes are read, of the batch what does not change: fields, num_fields,
// spec and width. Used by any number of threads at once; freed once.
ROBE_API int robe_prepare(const robe_array*, const robe_batch*, robe_prepared** out);
ROBE_API int robe_lookup_prepared(const robe_prepared*, void* array, const float* scales, const int64_t* ids,
                                  int64_t batch_size, void* out, int64_t threads);
ROBE_API void robe_free(robe_prepared*);
// grad_array [slots]: formula (12).
ROBE_API int robe_lookup_backward_array(const robe_array*, const robe_batch*, void* grad_array, int64_t threads);
// grad_weights [num_ids]: formula (13).
ROBE_API int robe_lookup_backward_weights(const robe_array*, const robe_batch*, void* grad_weights, int64_t threads);
// The gradients of all batches together, applied to the array by one step of an optimizer; float32 and float64.
ROBE_API int robe_step(const robe_array*, const robe_batch*, int64_t num_batches, const robe_update*, int64_t threads);

// Lookup of fields of one dim D and DLRM's interaction, float32. `dense` is [batch_size, D] or null; with G vectors per
// sample out is [batch_size, (D +) G (G - 1) / 2]: the dense vector, then the dot products (1, 0), (2, 0), (2, 1), ...
ROBE_API int robe_lookup_dot(const robe_array*, const robe_batch*, const void* dense, void* out, int64_t threads);
// From the gradient of `out`: grad_dense [batch_size, D] or null, and grad_rows [batch_size, width] of the embeddings.
ROBE_API int robe_lookup_dot_backward(const robe_array*, const robe_batch*, const void* dense, void* grad_dense,
                                      void* grad_rows, int64_t threads);

// Self-attention among F vectors of a sample, float32: out [batch_size, F, heads * head_dim] is relu(softmax(Q K^T) V + R)
// for parts [batch_size, F, 3 or 4 * heads * head_dim], Q, K, V and (with `residual`) R side by side.
ROBE_API int robe_attention(const float* parts, int64_t batch_size, int64_t count, int64_t num_heads, int64_t head_dim,
                            int64_t residual, float* out, int64_t threads);
// grad_parts, in the shape of parts, from the gradient of `out`.
ROBE_API int robe_attention_backward(const float* grad, const float* parts, const float* out, int64_t batch_size,
                                     int64_t count, int64_t num_heads, int64_t head_dim, int64_t residual,
                                     float* grad_parts, int64_t threads);

// Asks for huge pages behind a large buffer: fewer page faults and TLB misses. A hint, without effect elsewhere.
ROBE_API void robe_huge_pages(void* data, int64_t bytes);
