/* goshawk.h: the part of the C interface that is the same for every library compiled by goshawk.
 *
 * Generated headers contain this text, so that they need no other file. C99, C++11.
 */
#ifndef GOSHAWK_ABI_VERSION
#define GOSHAWK_ABI_VERSION 2

#include <stddef.h>
#include <stdint.h>

/* Results of the run functions. */
#define GOSHAWK_OK 0
#define GOSHAWK_E_NULL 1     /* a pointer that must not be NULL is NULL */
#define GOSHAWK_E_ALIGN 2    /* the arena is not aligned to 64 bytes */
#define GOSHAWK_E_ISA 3      /* this CPU runs none of the levels of instruction sets that the library has code for */
#define GOSHAWK_E_EXECUTOR 4 /* the executor's struct_size, threads or parallel_for makes no sense */
#define GOSHAWK_E_PARALLEL 5 /* parallel_for returned an error; outputs and arena hold anything */

/* Element types. */
#define GOSHAWK_F32 0
#define GOSHAWK_I32 1
#define GOSHAWK_I16 2
#define GOSHAWK_I8 3
#define GOSHAWK_U8 4

/* Lets threads of the caller take part in a run; NULL instead means one thread. The results do not depend on it. An
 * executor may serve runs that happen at the same time only if its parallel_for may be called so. */
typedef struct goshawk_executor {
    size_t struct_size; /* sizeof(goshawk_executor) */
    size_t threads;     /* tasks that can run at the same time, the caller's included; at least 1 */
    void *context;      /* handed to parallel_for */
    /* Calls task(data, 0) ... task(data, count - 1) once each, in any order, on any threads, with the model's STACK_BYTES
     * left on their stacks, and returns 0 when all are done. Another result ends the run with
     * GOSHAWK_E_PARALLEL; no task may be running then. */
    int (*parallel_for)(void *context, void (*task)(void *data, size_t index), void *data, size_t count);
} goshawk_executor;

/* An input or output of the network: real = scale * (q - zero_point). */
typedef struct goshawk_tensor_info {
    uint32_t struct_size; /* of this record, in the library */
    int32_t dtype;        /* GOSHAWK_U8 ...: element type of the integer entry point */
    int32_t zero_point;
    float scale;
    uint32_t bits;        /* bits that the values use */
    uint32_t rank;        /* valid entries of dims */
    uint32_t f32_rank;    /* valid entries of f32_dims */
    uint32_t reserved;
    int64_t dims[8];      /* integer entry point, outermost first: NHWC for images */
    int64_t f32_dims[8];  /* f32 entry point, outermost first: as in the ONNX model */
    char name[128];       /* in the ONNX model; terminated, cut if longer */
} goshawk_tensor_info;

/* Facts about a compiled network. Position-independent: everything else lies at offsets from its first byte. */
typedef struct goshawk_model_info {
    uint32_t struct_size; /* of this record, in the library */
    uint32_t abi_version; /* GOSHAWK_ABI_VERSION of the library */
    uint64_t arena_bytes; /* scratch memory that a run needs */
    uint32_t arena_align; /* alignment of the arena */
    uint32_t stack_bytes; /* stack that a run needs at most */
    uint32_t input_count;
    uint32_t output_count;
    uint32_t tensor_size;    /* distance of two goshawk_tensor_info records */
    uint32_t inputs_offset;  /* of the first input's record */
    uint32_t outputs_offset; /* of the first output's record */
    uint32_t json_offset;    /* of the manifest: JSON, terminated by a NUL */
    uint32_t json_bytes;     /* length of the manifest without the NUL */
    uint32_t level_count;    /* levels of instruction sets that the library has code for, at least 1 */
    uint32_t level_size;     /* distance of two goshawk_level_info records */
    uint32_t levels_offset;  /* of the first level's record */
    char name[64];         /* of the network; terminated, cut if longer */
    char isa[256];         /* target triple and instruction sets of the best level */
    char model_sha256[65]; /* of the ONNX file, in hexadecimal */
    char reserved_tail[7];
} goshawk_model_info;

/* A level of instruction sets: code for CPUs that have all of them. */
typedef struct goshawk_level_info {
    uint32_t struct_size; /* of this record, in the library */
    uint32_t reserved;
    char isa[256]; /* target triple and instruction sets; terminated */
} goshawk_level_info;

/* The record of input `index`, NULL if there is no such input. */
static inline const goshawk_tensor_info *goshawk_input(const goshawk_model_info *model, uint32_t index) {
    const void *record = (const char *)model + model->inputs_offset + (size_t)index * model->tensor_size;
    return index < model->input_count ? (const goshawk_tensor_info *)record : NULL;
}

/* The record of output `index`, NULL if there is no such output. */
static inline const goshawk_tensor_info *goshawk_output(const goshawk_model_info *model, uint32_t index) {
    const void *record = (const char *)model + model->outputs_offset + (size_t)index * model->tensor_size;
    return index < model->output_count ? (const goshawk_tensor_info *)record : NULL;
}

/* The record of level `index`, best first, NULL if there is none: <prefix>_level() gives the index that this CPU runs. */
static inline const goshawk_level_info *goshawk_level(const goshawk_model_info *model, uint32_t index) {
    const void *record = (const char *)model + model->levels_offset + (size_t)index * model->level_size;
    return index < model->level_count ? (const goshawk_level_info *)record : NULL;
}

/* The manifest: a JSON document that describes the layers, their bits and their kernels. */
static inline const char *goshawk_manifest(const goshawk_model_info *model) {
    return (const char *)model + model->json_offset;
}

/* Number of elements of a tensor. */
static inline size_t goshawk_elements(const goshawk_tensor_info *tensor) {
    size_t count = 1;
    uint32_t i;
    for (i = 0; i < tensor->rank; i++) {
        count *= (size_t)tensor->dims[i];
    }
    return count;
}

/* Bytes of a tensor at the integer entry point; at the f32 one it takes 4 * goshawk_elements(tensor). */
static inline size_t goshawk_bytes(const goshawk_tensor_info *tensor) {
    size_t size = tensor->dtype <= GOSHAWK_I32 ? 4 : tensor->dtype == GOSHAWK_I16 ? 2 : 1;
    return size * goshawk_elements(tensor);
}

/* What a result of a run function means. */
static inline const char *goshawk_error_text(int result) {
    switch (result) {
    case GOSHAWK_OK:
        return "success";
    case GOSHAWK_E_NULL:
        return "a pointer that must not be NULL is NULL";
    case GOSHAWK_E_ALIGN:
        return "the arena is not aligned to 64 bytes";
    case GOSHAWK_E_ISA:
        return "this CPU runs none of the levels of instruction sets that the library has code for";
    case GOSHAWK_E_EXECUTOR:
        return "the executor's struct_size, threads or parallel_for makes no sense";
    case GOSHAWK_E_PARALLEL:
        return "the executor's parallel_for returned an error";
    default:
        return "unknown error";
    }
}

#elif GOSHAWK_ABI_VERSION != 2
#error "headers of libraries compiled by incompatible versions of goshawk are included together"
#endif /* GOSHAWK_ABI_VERSION */
