/* tensor.c - the tensor value: its memory (tensor.h). Any thread. */
#include "values/tensor.h"

#include <stdlib.h>
#include <string.h>

#include "values/defrag.h"

#define ALIGNMENT 64
#define STRINGS_MISMATCH "Number of string elements in data blob does not match tensor length"

int tensor_measure(int dtype, int ndim, const int64_t *shape, int64_t *length, uint64_t *size) {
    int64_t elements = 1;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(elements, shape[i], &elements)) return -1;
    }
    *length = elements;
    return __builtin_mul_overflow((uint64_t)elements, dtype_size(dtype), size) ? -1 : 0;
}

uint64_t tensor_memory(int dtype, int64_t length, uint64_t size) {
    uint64_t offsets, total;
    if (!dtype_is_string(dtype)) return size;
    if (__builtin_mul_overflow((uint64_t)length, sizeof(uint64_t), &offsets)) return UINT64_MAX;
    return __builtin_add_overflow(size, offsets, &total) ? UINT64_MAX : total;
}

#define MAX_BYTES (512ULL * 1024 * 1024)
static uint64_t max_bytes = MAX_BYTES; /* atomic */

uint64_t bridge_max_tensor_bytes(void) { return __atomic_load_n(&max_bytes, __ATOMIC_RELAXED); }

uint64_t tensor_max_bytes(RedisModuleCtx *ctx, uint64_t size) {
    if (size <= MAX_BYTES) return MAX_BYTES;
    uint64_t limit = MAX_BYTES;
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "CONFIG", "cc", "GET", "proto-max-bulk-len");
    RedisModuleCallReply *value = reply ? RedisModule_CallReplyArrayElement(reply, 1) : NULL;
    size_t len = 0;
    const char *text = value ? RedisModule_CallReplyStringPtr(value, &len) : NULL;
    char digits[32];
    if (text && len < sizeof(digits)) {
        memcpy(digits, text, len);
        digits[len] = '\0';
        uint64_t configured = strtoull(digits, NULL, 10);
        if (configured > limit) limit = configured;
    }
    if (reply) RedisModule_FreeCallReply(reply);
    __atomic_store_n(&max_bytes, limit, __ATOMIC_RELAXED);
    return limit;
}

/* Every tensor is the start of one. */
typedef struct Counted {
    Tensor tensor;
    int32_t refs; /* atomic */
} Counted;

/* Sets the pointers into the tensor's allocation, where data is aligned. */
static void place(Tensor *tensor) {
    tensor->shape = (int64_t *)((Counted *)tensor + 1);
    uint64_t *end = (uint64_t *)(tensor->shape + tensor->ndim);
    tensor->offsets = dtype_is_string(tensor->dtype) ? end : NULL;
    uintptr_t data = (uintptr_t)(tensor->offsets ? end + tensor->length : end);
    tensor->data = (char *)((data + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

/* One allocation holds it all: struct, shape, offsets, padding, data. So it is one malloc and one free a tensor. */
Tensor *tensor_new(int dtype, int ndim, const int64_t *shape, int64_t length, uint64_t size, int zeroed) {
    uint64_t total = sizeof(Counted) + ndim * sizeof(int64_t) + ALIGNMENT;
    uint64_t offsets = 0;
    if (dtype_is_string(dtype) && __builtin_mul_overflow((uint64_t)length, sizeof(uint64_t), &offsets)) return NULL;
    if (__builtin_add_overflow(total, offsets, &total) || __builtin_add_overflow(total, size, &total)) return NULL;

    char *block;
    if (zeroed) {
        /* calloc gets fresh pages from the kernel as zeros: nothing is written here, however large the tensor. */
        block = RedisModule_TryCalloc ? RedisModule_TryCalloc(1, total) : RedisModule_Calloc(1, total);
    } else {
        block = RedisModule_TryAlloc ? RedisModule_TryAlloc(total) : RedisModule_Alloc(total);
    }
    if (block == NULL) return NULL;

    ((Counted *)block)->refs = 1;
    Tensor *tensor = &((Counted *)block)->tensor;
    tensor->owner = NULL;
    tensor->dtype = dtype;
    tensor->ndim = ndim;
    tensor->length = length;
    tensor->size = size;
    place(tensor);
    if (ndim) memcpy(tensor->shape, shape, ndim * sizeof(int64_t));
    if (zeroed && tensor->offsets) {
        for (int64_t i = 0; i < length; i++) tensor->offsets[i] = i;
    }
    return tensor;
}

/* Whether every byte is 0 or 1. Branch-free within a block so that the compiler vectorises it: the main thread does
 * this for each BOOL blob. */
static int all_bools(const unsigned char *data, uint64_t size) {
    while (size) {
        uint64_t block = size < 4096 ? size : 4096;
        unsigned char seen = 0;
        for (uint64_t i = 0; i < block; i++) seen |= data[i];
        if (seen > 1) return 0;
        data += block;
        size -= block;
    }
    return 1;
}

/* Where each string starts, or -1 when data is not exactly length NUL-terminated strings. */
static int find_strings(const char *data, uint64_t size, int64_t length, uint64_t *offsets) {
    uint64_t at = 0;
    for (int64_t i = 0; i < length; i++) {
        const char *end = at < size ? memchr(data + at, '\0', size - at) : NULL;
        if (end == NULL) return -1;
        offsets[i] = at;
        at = end - data + 1;
    }
    return at == size ? 0 : -1;
}

/* The same for strings that start where given says: whatever ends before the next one has a NUL there. */
static int copy_offsets(const char *data, uint64_t size, int64_t length, const uint64_t *given, uint64_t *offsets) {
    for (int64_t i = 0; i < length; i++) {
        uint64_t end = i + 1 < length ? given[i + 1] : size;
        if (given[i] >= end || end > size || data[end - 1] != '\0') return -1;
        offsets[i] = given[i];
    }
    return (length ? offsets[0] : size) == 0 ? 0 : -1;
}

/* What is wrong with data for this type and shape, or NULL. */
static const char *check_data(int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size,
                              int64_t *length) {
    uint64_t expected;
    if (tensor_measure(dtype, ndim, shape, length, &expected) == -1) return "tensor shape overflows";
    /* STRING: every element takes a NUL at least, which also bounds the offsets by the data that is really there. */
    if (dtype_is_string(dtype) && size < expected) return STRINGS_MISMATCH;
    if (!dtype_is_string(dtype) && size != expected) return "data length does not match tensor shape and type";
    if (dtype_is_bool(dtype) && !all_bools(data, size)) return "BOOL tensor elements must be 0 or 1";
    return NULL;
}

/* Takes over owner, the string that data lies in; NULL: copies data. On error owner stays the caller's. */
static Tensor *make(int dtype, int ndim, const int64_t *shape, const char *data, uint64_t size,
                    RedisModuleString *owner, const uint64_t *offsets, const char **error) {
    int64_t length;
    *error = check_data(dtype, ndim, shape, data, size, &length);
    if (*error) return NULL;
    Tensor *tensor = tensor_new(dtype, ndim, shape, length, owner ? 0 : size, 0);
    if (tensor == NULL) {
        *error = "not enough memory for the tensor";
        return NULL;
    }
    int found = 0;
    if (tensor->offsets && offsets) found = copy_offsets(data, size, length, offsets, tensor->offsets);
    if (tensor->offsets && !offsets) found = find_strings(data, size, length, tensor->offsets);
    if (found == -1) {
        tensor_unref(tensor);
        *error = offsets ? "string offsets do not match the strings" : STRINGS_MISMATCH;
        return NULL;
    }
    if (owner) {
        tensor->owner = owner;
        tensor->data = (char *)data;
        tensor->size = size;
    } else if (size) {
        memcpy(tensor->data, data, size);
    }
    return tensor;
}

Tensor *tensor_from_data(int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size,
                         const uint64_t *offsets, const char **error) {
    return make(dtype, ndim, shape, data, size, NULL, offsets, error);
}

Tensor *tensor_from_string(int dtype, int ndim, const int64_t *shape, RedisModuleString *owner, const uint64_t *offsets,
                           const char **error) {
    size_t size;
    const char *data = RedisModule_StringPtrLen(owner, &size);
    Tensor *tensor = make(dtype, ndim, shape, data, size, owner, offsets, error);
    if (tensor == NULL) RedisModule_FreeString(NULL, owner);
    return tensor;
}

Tensor *tensor_view(int dtype, int ndim, const int64_t *shape, const char *data, uint64_t size, uint64_t *offsets) {
    int64_t length;
    uint64_t least;
    if (tensor_measure(dtype, ndim, shape, &length, &least) == -1) length = 0; /* cannot be: it was measured before */
    Counted *counted = RedisModule_Alloc(sizeof(Counted) + ndim * sizeof(int64_t));
    Tensor *tensor = &counted->tensor;
    *counted = (Counted){.tensor = {.length = length, .size = size, .dtype = dtype, .ndim = ndim}, .refs = 1};
    place(tensor);
    tensor->data = (char *)data;
    tensor->offsets = offsets;
    if (ndim) memcpy(tensor->shape, shape, ndim * sizeof(int64_t));
    return tensor;
}

Bytes tensor_element(const Tensor *tensor, int64_t index) {
    uint64_t start = tensor->offsets[index];
    uint64_t end = index + 1 < tensor->length ? tensor->offsets[index + 1] : tensor->size;
    return (Bytes){.data = tensor->data + start, .size = end - start - 1};
}

int tensor_has_inner_nuls(const Tensor *tensor) {
    for (int64_t i = 0; tensor->offsets && i < tensor->length; i++) {
        Bytes element = tensor_element(tensor, i);
        if (memchr(element.data, '\0', element.size)) return 1;
    }
    return 0;
}

size_t tensor_allocated(const Tensor *tensor) {
    return RedisModule_MallocSize((void *)tensor) + (tensor->owner ? RedisModule_MallocSizeString(tensor->owner) : 0);
}

Tensor *tensor_ref(Tensor *tensor) {
    __atomic_add_fetch(&((Counted *)tensor)->refs, 1, __ATOMIC_RELAXED);
    return tensor;
}

void tensor_unref(Tensor *tensor) {
    if (__atomic_sub_fetch(&((Counted *)tensor)->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    if (tensor->owner) RedisModule_FreeString(NULL, tensor->owner);
    RedisModule_Free(tensor);
}

Tensor *tensor_defrag(RedisModuleDefragCtx *ctx, Tensor *tensor) {
    if (__atomic_load_n(&((Counted *)tensor)->refs, __ATOMIC_ACQUIRE) != 1) return tensor;
    uint64_t start = tensor->owner ? 0 : tensor->data - (char *)tensor;
    char *moved = RedisModule_DefragAlloc(ctx, tensor);
    if (moved) {
        tensor = (Tensor *)moved;
        place(tensor);
        /* What is aligned in the old place may not be in the new one. */
        if (tensor->owner == NULL && tensor->size) memmove(tensor->data, moved + start, tensor->size);
    }
    if (tensor->owner) tensor->data = (char *)defrag_string(ctx, &tensor->owner);
    return tensor;
}
