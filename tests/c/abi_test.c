/* Exercises one compiled network through its C interface; plain C99 that is also C++11.
 *
 * usage: abi_test MODE DATA, DATA = integer inputs, integer outputs, f32 inputs, f32 outputs in one file
 *   values   compares both entry points with DATA, the description with the header's macros, and all error codes
 *   guard    the same with every buffer between inaccessible pages, at either end
 *   threads  eight threads with an arena each, many runs, all compared with DATA
 *   executors  the caller's executors in every order and number of threads, pools, failing ones
 *   stack    measures the stack that a run touches and compares it with the header's bound
 */
#ifndef _GNU_SOURCE /* g++ defines it */
#define _GNU_SOURCE
#endif
#define GOSHAWK_POOL
#include "net.h"
#include "net.h" /* headers may be included twice */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_PORTS 8
#define THREADS 8
#define RUNS 200

/* One call: buffers of all ports, integers or floats. */
typedef struct {
    int is_float;
    size_t in_bytes[MAX_PORTS], out_bytes[MAX_PORTS];
    const unsigned char *in_data[MAX_PORTS], *out_data[MAX_PORTS]; /* in the file */
} call_t;

static unsigned char *file_data;
static call_t calls[2];

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static void read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    long size;
    CHECK(f && fseek(f, 0, SEEK_END) == 0);
    size = ftell(f);
    CHECK(size > 0 && fseek(f, 0, SEEK_SET) == 0);
    file_data = (unsigned char *)malloc((size_t)size);
    CHECK(file_data && fread(file_data, 1, (size_t)size, f) == (size_t)size);
    fclose(f);
    {
        const goshawk_model_info *model = net_info();
        const unsigned char *at = file_data;
        int c;
        uint32_t i;
        CHECK(model->input_count <= MAX_PORTS && model->output_count <= MAX_PORTS);
        for (c = 0; c < 2; c++) {
            calls[c].is_float = c;
            for (i = 0; i < model->input_count; i++) {
                const goshawk_tensor_info *t = goshawk_input(model, i);
                calls[c].in_bytes[i] = c ? 4 * goshawk_elements(t) : goshawk_bytes(t);
                calls[c].in_data[i] = at;
                at += calls[c].in_bytes[i];
            }
            for (i = 0; i < model->output_count; i++) {
                const goshawk_tensor_info *t = goshawk_output(model, i);
                calls[c].out_bytes[i] = c ? 4 * goshawk_elements(t) : goshawk_bytes(t);
                calls[c].out_data[i] = at;
                at += calls[c].out_bytes[i];
            }
        }
        CHECK(at == file_data + size);
    }
}

typedef int (*run_t)(const net_inputs *, const net_outputs *, void *, const goshawk_executor *);
typedef int (*run_f32_t)(const net_inputs_f32 *, const net_outputs_f32 *, void *, const goshawk_executor *);
static volatile run_t entry = net_run;
static volatile run_f32_t entry_f32 = net_run_f32;

/* The structs are pointers in order: fills them without naming their fields, which differ between networks. */
static int run_by(const goshawk_executor *executor, const call_t *call, void *const *in, void *const *out,
                  void *arena) {
    if (call->is_float) {
        net_inputs_f32 i;
        net_outputs_f32 o;
        memcpy(&i, in, sizeof i);
        memcpy(&o, out, sizeof o);
        return entry_f32(&i, &o, arena, executor);
    } else {
        net_inputs i;
        net_outputs o;
        memcpy(&i, in, sizeof i);
        memcpy(&o, out, sizeof o);
        return entry(&i, &o, arena, executor);
    }
}

static int run(const call_t *call, void *const *in, void *const *out, void *arena) {
    return run_by(NULL, call, in, out, arena);
}

/* Memory for `bytes` bytes between inaccessible pages: flush with the end (at_end) or the start of the pages. */
static unsigned char *guarded(size_t bytes, int at_end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inner = (bytes + page - 1) / page * page;
    unsigned char *all = (unsigned char *)mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != (unsigned char *)MAP_FAILED);
    CHECK(mprotect(all + page, inner, PROT_READ | PROT_WRITE) == 0);
    return at_end ? all + page + inner - bytes : all + page;
}

/* The heap, 64-byte aligned and not zeroed, so that valgrind sees reads of what a run did not write. */
static unsigned char *plain(size_t bytes) {
    void *p = NULL;
    CHECK(posix_memalign(&p, 64, bytes) == 0);
    return (unsigned char *)p;
}

typedef unsigned char *(*allocate_t)(size_t);
static unsigned char *guarded_end(size_t bytes) { return guarded(bytes, 1); }
static unsigned char *guarded_start(size_t bytes) { return guarded(bytes, 0); }

static void compare_by(const goshawk_executor *executor, const call_t *call, allocate_t allocate,
                       unsigned char *arena, int runs) {
    void *in[MAX_PORTS], *out[MAX_PORTS];
    uint32_t i;
    for (i = 0; i < NET_INPUT_COUNT; i++) {
        in[i] = allocate(call->in_bytes[i]);
        memcpy(in[i], call->in_data[i], call->in_bytes[i]);
    }
    for (i = 0; i < NET_OUTPUT_COUNT; i++) {
        out[i] = allocate(call->out_bytes[i]);
    }
    while (runs-- > 0) {
        for (i = 0; i < NET_OUTPUT_COUNT; i++) {
            memset(out[i], 0xa5, call->out_bytes[i]);
        }
        CHECK(run_by(executor, call, in, out, arena) == GOSHAWK_OK);
        for (i = 0; i < NET_OUTPUT_COUNT; i++) {
            CHECK(memcmp(out[i], call->out_data[i], call->out_bytes[i]) == 0);
        }
        for (i = 0; i < NET_INPUT_COUNT; i++) {
            CHECK(memcmp(in[i], call->in_data[i], call->in_bytes[i]) == 0);
        }
    }
    if (allocate == plain) {
        for (i = 0; i < NET_INPUT_COUNT; i++) {
            free(in[i]);
        }
        for (i = 0; i < NET_OUTPUT_COUNT; i++) {
            free(out[i]);
        }
    }
}

static void compare(const call_t *call, allocate_t allocate, unsigned char *arena, int runs) {
    compare_by(NULL, call, allocate, arena, runs);
}

static void check_info(void) {
    const goshawk_model_info *model = net_info();
    const goshawk_tensor_info *t = goshawk_input(model, 0);
    const int64_t shape[] = NET_INPUT0_SHAPE, f32_shape[] = NET_INPUT0_F32_SHAPE;
    CHECK(model->struct_size == sizeof *model && model->abi_version == GOSHAWK_ABI_VERSION);
    CHECK(model->tensor_size == sizeof *t && t->struct_size == sizeof *t);
    CHECK(model->arena_bytes == NET_ARENA_BYTES && model->arena_align == NET_ARENA_ALIGN);
    CHECK(model->stack_bytes == NET_STACK_BYTES);
    CHECK(model->input_count == NET_INPUT_COUNT && model->output_count == NET_OUTPUT_COUNT);
    CHECK(goshawk_input(model, NET_INPUT_COUNT) == NULL && goshawk_output(model, NET_OUTPUT_COUNT) == NULL);
    CHECK(sizeof(net_inputs) == NET_INPUT_COUNT * sizeof(void *));
    CHECK(sizeof(net_outputs) == NET_OUTPUT_COUNT * sizeof(void *));
    CHECK(strcmp(t->name, NET_INPUT0_NAME) == 0);
    CHECK(t->scale == NET_INPUT0_SCALE && t->zero_point == NET_INPUT0_ZERO_POINT && t->bits == NET_INPUT0_BITS);
    CHECK(t->rank == NET_INPUT0_RANK && sizeof shape == 8 * t->rank);
    CHECK(memcmp(t->dims, shape, sizeof shape) == 0 && memcmp(t->f32_dims, f32_shape, sizeof f32_shape) == 0);
    CHECK(goshawk_elements(t) == NET_INPUT0_ELEMENTS && goshawk_bytes(t) == NET_INPUT0_BYTES);
    CHECK(goshawk_bytes(goshawk_output(model, 0)) == NET_OUTPUT0_BYTES);
    CHECK(net_level() >= 0 && (uint32_t)net_level() < model->level_count);
    CHECK(goshawk_level(model, 0)->struct_size == sizeof(goshawk_level_info));
    CHECK(strcmp(goshawk_level(model, 0)->isa, model->isa) == 0);
    CHECK(goshawk_level(model, model->level_count) == NULL);
    CHECK(strlen(goshawk_manifest(model)) == model->json_bytes && goshawk_manifest(model)[0] == '{');
    CHECK(strcmp(goshawk_error_text(GOSHAWK_OK), "success") == 0);
    CHECK(strcmp(goshawk_error_text(-1), "unknown error") == 0);
}

/* Executors: `threads` tasks at a time, by one thread in order and in reverse, and by new threads for every layer. */
static size_t jobs, tasks;

static int in_order(void *context, void (*task)(void *, size_t), void *data, size_t count) {
    size_t i;
    CHECK(!context && count >= 2);
    jobs++;
    tasks += count;
    for (i = 0; i < count; i++) {
        task(data, i);
    }
    return 0;
}

static int in_reverse(void *context, void (*task)(void *, size_t), void *data, size_t count) {
    CHECK(context == &jobs);
    while (count-- > 0) {
        task(data, count);
    }
    return 0;
}

/* The `context`-th job fails. */
static int failing(void *context, void (*task)(void *, size_t), void *data, size_t count) {
    int *left = (int *)context;
    return (*left)-- > 0 ? in_order(NULL, task, data, count) : 7;
}

typedef struct {
    void (*task)(void *, size_t);
    void *data;
    size_t index;
} share_t;

static void *one_share(void *argument) {
    share_t *share = (share_t *)argument;
    share->task(share->data, share->index);
    return NULL;
}

static int by_new_threads(void *context, void (*task)(void *, size_t), void *data, size_t count) {
    pthread_t threads[THREADS];
    share_t shares[THREADS];
    size_t i;
    CHECK(!context && count <= THREADS);
    for (i = 0; i < count; i++) {
        share_t share = {task, data, i};
        shares[i] = share;
        CHECK(pthread_create(&threads[i], NULL, one_share, &shares[i]) == 0);
    }
    for (i = 0; i < count; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}

static void check_executors(unsigned char *arena) {
    size_t threads;
    int c, shared, left;
    for (c = 0; c < 2; c++) {
        for (threads = 1; threads <= THREADS; threads++) {
            const goshawk_executor executors[] = {
                {sizeof(goshawk_executor), threads, NULL, in_order},
                {sizeof(goshawk_executor), threads, &jobs, in_reverse},
                {sizeof(goshawk_executor), threads, NULL, by_new_threads},
            };
            goshawk_pool *pool = goshawk_pool_create(threads);
            CHECK(pool && goshawk_pool_executor(pool)->threads == threads);
            jobs = tasks = 0;
            compare_by(&executors[0], &calls[c], plain, arena, 1);
            CHECK(threads > 1 || jobs == 0);
            CHECK(tasks <= jobs * threads);
            if (strcmp(net_info()->name, "broad") == 0) {
                CHECK(threads == 1 || jobs > 0); /* its layers are large enough */
            }
            compare_by(&executors[1], &calls[c], plain, arena, 1);
            compare_by(&executors[2], &calls[c], plain, arena, 1);
            compare_by(goshawk_pool_executor(pool), &calls[c], plain, arena, 20);
            goshawk_pool_destroy(pool);
        }
        /* The first failing job ends the run, whichever it is. */
        {
            const goshawk_executor count = {sizeof(goshawk_executor), 2, NULL, in_order};
            jobs = 0;
            compare_by(&count, &calls[c], plain, arena, 1);
            shared = (int)jobs;
        }
        for (left = 0; left <= shared; left++) {
            int jobs_left = left;
            const goshawk_executor executor = {sizeof(goshawk_executor), 2, &jobs_left, failing};
            void *in[MAX_PORTS], *out[MAX_PORTS];
            uint32_t i;
            for (i = 0; i < NET_INPUT_COUNT; i++) {
                in[i] = plain(calls[c].in_bytes[i]);
                memcpy(in[i], calls[c].in_data[i], calls[c].in_bytes[i]);
            }
            for (i = 0; i < NET_OUTPUT_COUNT; i++) {
                out[i] = plain(calls[c].out_bytes[i]);
            }
            CHECK(run_by(&executor, &calls[c], in, out, arena) == (left < shared ? GOSHAWK_E_PARALLEL : GOSHAWK_OK));
            for (i = 0; i < NET_INPUT_COUNT; i++) {
                free(in[i]);
            }
            for (i = 0; i < NET_OUTPUT_COUNT; i++) {
                free(out[i]);
            }
        }
    }
    CHECK(goshawk_pool_create(0) == NULL);
    goshawk_pool_destroy(NULL);
}

static void check_errors(const call_t *call, unsigned char *arena) {
    void *in[MAX_PORTS], *out[MAX_PORTS];
    goshawk_executor executor = {sizeof(goshawk_executor), 2, NULL, in_order};
    net_inputs i;
    net_outputs o;
    uint32_t k;
    for (k = 0; k < NET_INPUT_COUNT; k++) {
        in[k] = plain(call->in_bytes[k]);
    }
    for (k = 0; k < NET_OUTPUT_COUNT; k++) {
        out[k] = plain(call->out_bytes[k]);
    }
    CHECK(run(call, in, out, NULL) == GOSHAWK_E_NULL);
    CHECK(run(call, in, out, arena + 1) == GOSHAWK_E_ALIGN);
    CHECK(run(call, in, out, arena + 32) == GOSHAWK_E_ALIGN);
    for (k = 0; k < NET_INPUT_COUNT; k++) {
        void *saved = in[k];
        in[k] = NULL;
        CHECK(run(call, in, out, arena) == GOSHAWK_E_NULL);
        in[k] = saved;
    }
    for (k = 0; k < NET_OUTPUT_COUNT; k++) {
        void *saved = out[k];
        out[k] = NULL;
        CHECK(run(call, in, out, arena) == GOSHAWK_E_NULL);
        out[k] = saved;
    }
    memcpy(&i, in, sizeof i);
    memcpy(&o, out, sizeof o);
    CHECK(net_run(NULL, &o, arena, NULL) == GOSHAWK_E_NULL);
    CHECK(net_run(&i, NULL, arena, NULL) == GOSHAWK_E_NULL);
    executor.struct_size--;
    CHECK(net_run(&i, &o, arena, &executor) == GOSHAWK_E_EXECUTOR);
    executor.struct_size++;
    executor.threads = 0;
    CHECK(net_run(&i, &o, arena, &executor) == GOSHAWK_E_EXECUTOR);
    executor.threads = 2;
    executor.parallel_for = NULL;
    CHECK(net_run(&i, &o, arena, &executor) == GOSHAWK_E_EXECUTOR);
    executor.parallel_for = in_order;
    CHECK(run_by(&executor, call, in, out, NULL) == GOSHAWK_E_NULL);
    CHECK(net_run_f32(NULL, NULL, arena, NULL) == GOSHAWK_E_NULL);
    for (k = 0; k < NET_INPUT_COUNT; k++) {
        free(in[k]);
    }
    for (k = 0; k < NET_OUTPUT_COUNT; k++) {
        free(out[k]);
    }
}

/* Every thread has its arena; `pool` is shared between all of them, and a run that finds it busy uses one thread. */
static void *worker(void *pool) {
    unsigned char *arena = plain(NET_ARENA_BYTES);
    const goshawk_executor *executor = pool ? goshawk_pool_executor((goshawk_pool *)pool) : NULL;
    compare_by(executor, &calls[0], plain, arena, RUNS);
    compare_by(executor, &calls[1], plain, arena, RUNS);
    free(arena);
    return NULL;
}

static void check_threads(goshawk_pool *pool) {
    pthread_t threads[THREADS];
    int i;
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, worker, pool) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

#ifdef __x86_64__
#define STACK_SIZE ((size_t)NET_STACK_BYTES + (1u << 20))
#define FRAME 256 /* more than the frame of measure() */
static unsigned char *stack, *caller;
static size_t touched[2];

/* Stand-ins for the entry points that note where the stack of their caller ends: above the return address. */
static int probe(const net_inputs *i, const net_outputs *o, void *arena, const goshawk_executor *executor) {
    caller = (unsigned char *)__builtin_frame_address(0) + 16;
    return i && o && arena && !executor ? GOSHAWK_OK : GOSHAWK_E_NULL;
}

static int probe_f32(const net_inputs_f32 *i, const net_outputs_f32 *o, void *arena, const goshawk_executor *executor) {
    caller = (unsigned char *)__builtin_frame_address(0) + 16;
    return i && o && arena && !executor ? GOSHAWK_OK : GOSHAWK_E_NULL;
}

/* Paints the stack below its own frame, runs, and looks for the deepest byte that changed. */
static void *measure(void *unused) {
    static void *in[2][MAX_PORTS], *out[2][MAX_PORTS];
    unsigned char *arena = plain(NET_ARENA_BYTES);
    volatile unsigned char *low = stack, *top = (unsigned char *)__builtin_frame_address(0) - FRAME, *p;
    int c;
    uint32_t i;
    for (c = 0; c < 2; c++) {
        for (i = 0; i < NET_INPUT_COUNT; i++) {
            in[c][i] = plain(calls[c].in_bytes[i]);
            memcpy(in[c][i], calls[c].in_data[i], calls[c].in_bytes[i]);
        }
        for (i = 0; i < NET_OUTPUT_COUNT; i++) {
            out[c][i] = plain(calls[c].out_bytes[i]);
        }
        CHECK(run(&calls[c], in[c], out[c], arena) == GOSHAWK_OK); /* the loader binds the symbol */
    }
    for (c = 0; c < 2; c++) {
        entry = probe;
        entry_f32 = probe_f32;
        CHECK(run(&calls[c], in[c], out[c], arena) == GOSHAWK_OK);
        entry = net_run;
        entry_f32 = net_run_f32;
        for (p = low; p < top; p++) {
            *p = 0xa5;
        }
        CHECK(run(&calls[c], in[c], out[c], arena) == GOSHAWK_OK);
        for (p = low; p < top && *p == 0xa5; p++) {
        }
        CHECK(p < caller);
        touched[c] = (size_t)(caller - p);
    }
    return unused;
}

static void check_stack(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    stack = (unsigned char *)mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != (unsigned char *)MAP_FAILED);
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, STACK_SIZE) == 0);
    CHECK(pthread_create(&thread, &attributes, measure, NULL) == 0 && pthread_join(thread, NULL) == 0);
    printf("stack: run %lu, run_f32 %lu, bound %lu\n", (unsigned long)touched[0], (unsigned long)touched[1],
           (unsigned long)NET_STACK_BYTES);
    CHECK(touched[0] <= NET_STACK_BYTES && touched[1] <= NET_STACK_BYTES);
}
#else
static void check_stack(void) { printf("stack: not measured on this machine\n"); }
#endif

int main(int argc, char **argv) {
    unsigned char *arena = plain(NET_ARENA_BYTES);
    CHECK(argc == 3);
    read_file(argv[2]);
    if (strcmp(argv[1], "values") == 0) {
        check_info();
        check_errors(&calls[0], arena);
        check_errors(&calls[1], arena);
        compare(&calls[0], plain, arena, 3);
        compare(&calls[1], plain, arena, 3);
    } else if (strcmp(argv[1], "guard") == 0) {
        int c;
        for (c = 0; c < 2; c++) {
            compare(&calls[c], guarded_end, guarded_end(NET_ARENA_BYTES), 2);
            compare(&calls[c], guarded_start, guarded_start(NET_ARENA_BYTES), 2);
        }
    } else if (strcmp(argv[1], "threads") == 0) {
        check_threads(NULL);
    } else if (strcmp(argv[1], "executors") == 0) {
        goshawk_pool *pool = goshawk_pool_create(3);
        CHECK(pool);
        check_executors(arena);
        check_threads(pool);
        goshawk_pool_destroy(pool);
    } else if (strcmp(argv[1], "stack") == 0) {
        check_stack();
    } else {
        CHECK(!"an unknown mode");
    }
    free(arena);
    free(file_data);
    return 0;
}
