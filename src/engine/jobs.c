/* jobs.c - the queue of jobs for the loader (jobs.h).
 *
 * The main thread and workers post, the loader thread takes. Lock: jobs.mutex, a leaf, held for a few pointer moves. */
#include "engine/jobs.h"

#include <pthread.h>

#include "engine/allocator.h"
#include "engine/options.h"
#include "engine/running.h"
#include "redis/clock.h"
#include "redis/event_loop.h"
#include "values/model.h"
#include "values/names.h"
#include "values/runnable.h"

#define LARGE_BLOB (64 << 20)

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t posted;
    pthread_cond_t finished; /* of awaited jobs; by the monotonic clock; made by jobs_init() */
    JobQueue queue;          /* of this process's loader */
    JobRouter *route;        /* NULL: to this process's loader */
    int64_t early;           /* atomic */
} jobs = {.mutex = PTHREAD_MUTEX_INITIALIZER, .posted = PTHREAD_COND_INITIALIZER};

LoaderJob *job_new(int kind, Runnable *runnable) {
    LoaderJob *job = RedisModule_Calloc(1, sizeof(*job));
    job->job.kind = kind;
    job->job.runnable = runnable;
    return job;
}

void job_free(LoaderJob *job) {
    if (job->is_early) __atomic_sub_fetch(&jobs.early, 1, __ATOMIC_RELAXED);
    if (job->job.runnable) runnable_unref(job->job.runnable);
    RedisModule_Free(job->job.path);
    RedisModule_Free(job->error);
    RedisModule_Free(job);
}

void jobs_set_router(JobRouter *route) { jobs.route = route; }

void job_post(LoaderJob *job) {
    if (jobs.route) {
        jobs.route(job);
    } else {
        job_queue_add(&jobs.queue, job);
    }
}

void job_post_early(LoaderJob *job) {
    job->is_early = 1;
    __atomic_add_fetch(&jobs.early, 1, __ATOMIC_RELAXED);
    job_post(job);
}

int64_t jobs_early(void) { return __atomic_load_n(&jobs.early, __ATOMIC_RELAXED); }

void job_queue_add(JobQueue *queue, LoaderJob *job) {
    JobList *list = job->is_urgent ? &queue->urgent : &queue->others;
    pthread_mutex_lock(&jobs.mutex);
    if (list->last) {
        list->last->next = job;
    } else {
        list->first = job;
    }
    list->last = job;
    pthread_cond_signal(&jobs.posted);
    pthread_mutex_unlock(&jobs.mutex);
}

/* Whoever waits may give up meanwhile. From then on the job is the loader's to free. */
static void finish_awaited(LoaderJob *job) {
    pthread_mutex_lock(&jobs.mutex);
    int is_awaited = job->is_awaited;
    job->is_done = 1;
    if (is_awaited) pthread_cond_broadcast(&jobs.finished); /* several threads may wait, each for its own job */
    pthread_mutex_unlock(&jobs.mutex);
    if (is_awaited) return;
    if (job->error) RedisModule_Log(log_context, "warning", "%s", job->error);
    job_free(job);
}

/* Until this time (ns); 0: for ever. */
static int post_and_wait(LoaderJob *job, int64_t deadline) {
    struct timespec until = monotonic_timespec(deadline);
    job->is_urgent = job->is_awaited = 1;
    job->finished = finish_awaited;
    job_post(job);
    pthread_mutex_lock(&jobs.mutex);
    int failed = 0;
    while (!job->is_done && !failed) {
        failed = deadline ? pthread_cond_timedwait(&jobs.finished, &jobs.mutex, &until)
                          : pthread_cond_wait(&jobs.finished, &jobs.mutex);
    }
    int is_done = job->is_done;
    if (!is_done) job->is_awaited = 0;
    pthread_mutex_unlock(&jobs.mutex);
    return is_done ? 0 : -1;
}

void job_post_and_wait(LoaderJob *job) { post_and_wait(job, 0); }

int job_post_and_wait_briefly(LoaderJob *job) {
    int64_t left = JOB_PATIENCE * 1000000000LL - event_loop_add_stall(0);
    if (left <= 0) {
        job_free(job);
        return -1;
    }
    int64_t begin = monotonic_ns();
    int result = post_and_wait(job, begin + left);
    event_loop_add_stall(monotonic_ns() - begin);
    if (result == -1) running_log();
    return result;
}

/* ---- what values ask of the loader ------------------------------------------------------------------------------- */

static void compile_in_background(Runnable *runnable) {
    if (safe_start()) return;
    int is_loading = RedisModule_GetContextFlags(log_context) & REDISMODULE_CTX_FLAGS_LOADING;
    (is_loading ? job_post_early : job_post)(job_new(JOB_LOAD, runnable_ref(runnable)));
}

static void destroy_dropped(LoaderJob *job) {
    runnable_destroy(job->job.runnable);
    job->job.runnable = NULL;
    job_free(job);
}

static void drop(Runnable *runnable) {
    LoaderJob *job = job_new(JOB_DROP, runnable);
    job->finished = destroy_dropped;
    job_post(job);
}

void jobs_init(void) {
    static const RunnableHooks hooks = {.compile = compile_in_background, .drop = drop};
    runnable_set_hooks(&hooks);
    monotonic_cond_init(&jobs.finished);
}

void jobs_post_limits(Runnable *model) {
    if (__atomic_exchange_n(&model->state->limits_posted, 1, __ATOMIC_SEQ_CST)) return;
    LoaderJob *job = job_new(JOB_LIMITS, runnable_ref(model));
    job->is_urgent = 1;
    job_post(job);
}

/* ---- what Python calls, on the loader thread --------------------------------------------------------------------- */

/* NULL: there is none. Call it with the mutex held. */
static LoaderJob *take(JobQueue *queue) {
    JobList *list = queue->urgent.first ? &queue->urgent : &queue->others;
    LoaderJob *job = list->first;
    if (job == NULL) return NULL;
    list->first = job->next;
    if (list->first == NULL) list->last = NULL;
    /* Before whoever takes the job reads the limits: later changes need another. */
    if (job->job.kind == JOB_LIMITS) __atomic_store_n(&job->job.runnable->state->limits_posted, 0, __ATOMIC_SEQ_CST);
    return job;
}

static LoaderJob *next_job(void) {
    LoaderJob *job;
    pthread_mutex_lock(&jobs.mutex);
    while ((job = take(&jobs.queue)) == NULL) pthread_cond_wait(&jobs.posted, &jobs.mutex);
    pthread_mutex_unlock(&jobs.mutex);
    return job;
}

/* Whether the runnable was overwritten or deleted before its turn, like most of what an AOF stores. Then the job alone
 * refers to it. */
static int is_unwanted(const LoaderJob *job) {
    return job->job.kind == JOB_LOAD && job->finished == NULL && runnable_has_one_ref(job->job.runnable);
}

LoaderJob *job_queue_take(JobQueue *queue) {
    for (;;) {
        pthread_mutex_lock(&jobs.mutex);
        LoaderJob *job = take(queue);
        pthread_mutex_unlock(&jobs.mutex);
        if (job == NULL || !is_unwanted(job)) return job;
        job_free(job);
    }
}

Job *bridge_next_job(void) {
    static _Thread_local int is_registered; /* one thread at a time, but not always the same */
    if (!is_registered) running_register("loader");
    is_registered = 1;
    LoaderJob *job = next_job();
    while (is_unwanted(job)) {
        job_free(job);
        job = next_job();
    }
    if (job->job.kind == JOB_LOAD) running_begin(job->job.runnable, NULL, monotonic_ns());
    return &job->job;
}

void bridge_ready(Runnable *runnable, struct Queue *queue, const Declared *declared, struct Direct *direct) {
    if (runnable_is_ready(runnable)) return;
    runnable->direct = direct;
    if (runnable->kind == KIND_MODEL && declared) declared_copy(&((Model *)runnable)->declared, declared);
    runnable_set_ready(runnable, queue);
}

void bridge_finish_job(Job *python_part, const char *error) {
    LoaderJob *job = (LoaderJob *)python_part;
    running_since(0);
    Runnable *runnable = job->job.runnable;
    if (job->job.kind == JOB_LOAD && runnable->kind == KIND_MODEL && ((Model *)runnable)->blob_size >= LARGE_BLOB) {
        allocator_release();
    }
    if (job->job.kind == JOB_LOAD) __atomic_store_n(&runnable->state->has_failed, error != NULL, __ATOMIC_RELAXED);
    if (error) job->error = RedisModule_Strdup(error);
    if (job->finished) {
        job->finished(job);
        return;
    }
    if (error) RedisModule_Log(log_context, "warning", "%s", error);
    job_free(job);
}
