/* A pool of threads for runs on several cores: POSIX threads, GCC or Clang.
 *
 *     #define GOSHAWK_POOL            // before the header of a model is included, in the files that use the pool
 *     #include "model.h"
 *     goshawk_pool *pool = goshawk_pool_create(4);
 *     error = model_run_f32(&in, &out, arena, goshawk_pool_executor(pool));
 *     goshawk_pool_destroy(pool);
 *
 * The caller is one of the threads. A share of the work that no thread has begun when the caller is done with its own is
 * run by the caller, so that sleeping threads and missing cores cost little. Threads that wait spin for some ten
 * microseconds, then let others run, then sleep. One job runs at a time: a second caller finds the pool busy and runs all
 * of its work itself. */
#if defined(GOSHAWK_POOL) && !defined(GOSHAWK_POOL_DEFINED)
#define GOSHAWK_POOL_DEFINED

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

/* Pauses before a waiting thread lets others run, and how often it does so before it sleeps. */
#define GOSHAWK_POOL_SPINS 1000u
#define GOSHAWK_POOL_YIELDS 500u

/* States of a slot: 4 * job + kind. */
#define GOSHAWK_POOL_DONE 0u
#define GOSHAWK_POOL_OFFERED 1u
#define GOSHAWK_POOL_TAKEN 2u
#define GOSHAWK_POOL_KINDS 4u

/* What caller and worker exchange. */
typedef struct goshawk_pool_slot {
    struct goshawk_pool *pool;
    size_t share;
    size_t state;
    int parked;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    char apart[128]; /* slots do not share cache lines */
} goshawk_pool_slot;

typedef struct goshawk_pool {
    goshawk_executor executor;
    /* The job: written by the holder of `busy` while no share is offered, read by who has taken a share. */
    size_t job, count, shares;
    void (*task)(void *data, size_t index);
    void *data;
    int busy, stop, asleep;
    unsigned spins;
    pthread_mutex_t mutex;
    pthread_cond_t done;
    size_t started;
    goshawk_pool_slot *slots;
} goshawk_pool;

static inline void goshawk_pool_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Runs every shares-th task from `share` on. */
static inline void goshawk_pool_share(const goshawk_pool *pool, size_t share) {
    size_t index;
    for (index = share; index < pool->count; index += pool->shares) {
        pool->task(pool->data, index);
    }
}

static inline void *goshawk_pool_work(void *argument) {
    goshawk_pool_slot *slot = (goshawk_pool_slot *)argument;
    goshawk_pool *pool = slot->pool;
    unsigned waits = 0;
    for (;;) {
        size_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
        if (state % GOSHAWK_POOL_KINDS == GOSHAWK_POOL_OFFERED) {
            const size_t job = state - GOSHAWK_POOL_OFFERED;
            waits = 0;
            if (__atomic_compare_exchange_n(&slot->state, &state, job + GOSHAWK_POOL_TAKEN, 0, __ATOMIC_ACQ_REL,
                                            __ATOMIC_RELAXED)) {
                goshawk_pool_share(pool, slot->share);
                __atomic_store_n(&slot->state, job + GOSHAWK_POOL_DONE, __ATOMIC_SEQ_CST);
                if (__atomic_load_n(&pool->asleep, __ATOMIC_SEQ_CST)) {
                    pthread_mutex_lock(&pool->mutex);
                    pthread_cond_signal(&pool->done);
                    pthread_mutex_unlock(&pool->mutex);
                }
            }
        } else if (__atomic_load_n(&pool->stop, __ATOMIC_ACQUIRE)) {
            return NULL;
        } else if (waits++ < pool->spins) {
            goshawk_pool_pause();
        } else if (waits < pool->spins + GOSHAWK_POOL_YIELDS) {
            sched_yield();
        } else {
            pthread_mutex_lock(&slot->mutex);
            __atomic_store_n(&slot->parked, 1, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) % GOSHAWK_POOL_KINDS != GOSHAWK_POOL_OFFERED &&
                   !__atomic_load_n(&pool->stop, __ATOMIC_SEQ_CST)) {
                pthread_cond_wait(&slot->wake, &slot->mutex);
            }
            __atomic_store_n(&slot->parked, 0, __ATOMIC_SEQ_CST);
            pthread_mutex_unlock(&slot->mutex);
            waits = 0;
        }
    }
}

/* Waits until the share of the slot is done. */
static inline void goshawk_pool_wait(goshawk_pool *pool, goshawk_pool_slot *slot) {
    unsigned waits;
    for (waits = 0; waits < pool->spins + GOSHAWK_POOL_YIELDS; waits++) {
        if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == pool->job + GOSHAWK_POOL_DONE) {
            return;
        }
        if (waits < pool->spins) {
            goshawk_pool_pause();
        } else {
            sched_yield();
        }
    }
    pthread_mutex_lock(&pool->mutex);
    __atomic_store_n(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) != pool->job + GOSHAWK_POOL_DONE) {
        pthread_cond_wait(&pool->done, &pool->mutex);
    }
    __atomic_store_n(&pool->asleep, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->mutex);
}

static inline int goshawk_pool_parallel_for(void *context, void (*task)(void *data, size_t index), void *data,
                                            size_t count) {
    goshawk_pool *pool = (goshawk_pool *)context;
    const size_t shares = count < pool->executor.threads ? count : pool->executor.threads;
    size_t i;
    if (shares <= 1 || __atomic_exchange_n(&pool->busy, 1, __ATOMIC_ACQUIRE)) {
        for (i = 0; i < count; i++) {
            task(data, i);
        }
        return 0;
    }
    pool->job += GOSHAWK_POOL_KINDS;
    pool->task = task;
    pool->data = data;
    pool->count = count;
    pool->shares = shares;
    for (i = 0; i + 1 < shares; i++) {
        goshawk_pool_slot *slot = &pool->slots[i];
        /* Before the look at `parked`: the worker looks at the two in the other order. */
        __atomic_exchange_n(&slot->state, pool->job + GOSHAWK_POOL_OFFERED, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&slot->parked, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&slot->mutex);
            pthread_cond_signal(&slot->wake);
            pthread_mutex_unlock(&slot->mutex);
        }
    }
    goshawk_pool_share(pool, 0);
    for (i = 0; i + 1 < shares; i++) {
        size_t offered = pool->job + GOSHAWK_POOL_OFFERED;
        if (__atomic_compare_exchange_n(&pool->slots[i].state, &offered, pool->job + GOSHAWK_POOL_DONE, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            goshawk_pool_share(pool, i + 1);
        }
    }
    for (i = 0; i + 1 < shares; i++) {
        goshawk_pool_wait(pool, &pool->slots[i]);
    }
    __atomic_store_n(&pool->busy, 0, __ATOMIC_RELEASE);
    return 0;
}

/* Ends the threads. No run may be using the pool. NULL is fine. */
static inline void goshawk_pool_destroy(goshawk_pool *pool) {
    size_t i;
    if (!pool) {
        return;
    }
    __atomic_store_n(&pool->stop, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < pool->started; i++) {
        goshawk_pool_slot *slot = &pool->slots[i];
        pthread_mutex_lock(&slot->mutex);
        pthread_cond_signal(&slot->wake);
        pthread_mutex_unlock(&slot->mutex);
        pthread_join(slot->thread, NULL);
        pthread_cond_destroy(&slot->wake);
        pthread_mutex_destroy(&slot->mutex);
    }
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->slots);
    free(pool);
}

/* A pool of `threads` threads, the caller's included: threads - 1 are started. NULL if `threads` is 0 or the system
 * refuses. */
static inline goshawk_pool *goshawk_pool_create(size_t threads) {
    goshawk_pool *pool = threads ? (goshawk_pool *)calloc(1, sizeof(goshawk_pool)) : NULL;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!pool) {
        return NULL;
    }
    pool->executor.struct_size = sizeof(goshawk_executor);
    pool->executor.threads = threads;
    pool->executor.context = pool;
    pool->executor.parallel_for = goshawk_pool_parallel_for;
    /* Spinning makes no sense where threads have no cores of their own. */
    pool->spins = cores > 0 && threads <= (size_t)cores ? GOSHAWK_POOL_SPINS : 0;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->slots = (goshawk_pool_slot *)calloc(threads, sizeof(goshawk_pool_slot));
    for (; pool->slots && pool->started + 1 < threads; pool->started++) {
        goshawk_pool_slot *slot = &pool->slots[pool->started];
        slot->pool = pool;
        slot->share = pool->started + 1;
        pthread_mutex_init(&slot->mutex, NULL);
        pthread_cond_init(&slot->wake, NULL);
        if (pthread_create(&slot->thread, NULL, goshawk_pool_work, slot) != 0) {
            pthread_cond_destroy(&slot->wake);
            pthread_mutex_destroy(&slot->mutex);
            break;
        }
    }
    if (!pool->slots || pool->started + 1 < threads) {
        goshawk_pool_destroy(pool);
        return NULL;
    }
    return pool;
}

/* What the run functions take; valid as long as the pool. */
static inline const goshawk_executor *goshawk_pool_executor(const goshawk_pool *pool) { return &pool->executor; }

#endif /* GOSHAWK_POOL */
