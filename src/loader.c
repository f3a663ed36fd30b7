/* loader.c - the queue of jobs for the loader (loader.h).
 *
 * The main thread and workers post, the loader thread takes. Lock: jobs.mutex, held for a few pointer moves only, a
 * leaf. */
#include "loader.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "names.h"
#include "op.h"
#include "unblock.h"

typedef struct JobList {
    Job *first;
    Job *last;
} JobList;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t posted;
    pthread_cond_t finished; /* only for jobs that a thread waits for */
    JobList urgent;          /* somebody waits for what is stored already: behind a start, hundreds may be compiled */
    JobList others;
} jobs = {.mutex = PTHREAD_MUTEX_INITIALIZER, .posted = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

Job *job_new(int kind) {
    Job *job = RedisModule_Calloc(1, sizeof(*job));
    job->kind = kind;
    return job;
}

void job_free(Job *job) {
    if (job->runnable) runnable_unref(job->runnable);
    RedisModule_Free(job->path);
    RedisModule_Free(job->error);
    RedisModule_Free(job);
}

void loader_post(Job *job) {
    JobList *list = job->kind == JOB_FORWARD || job->waited ? &jobs.urgent : &jobs.others;
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

int loader_post_and_wait(Job *job, int seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    job->waited = 1;
    loader_post(job);
    pthread_mutex_lock(&jobs.mutex);
    int failed = 0;
    while (!job->done && !failed) {
        failed = seconds ? pthread_cond_timedwait(&jobs.finished, &jobs.mutex, &until)
                         : pthread_cond_wait(&jobs.finished, &jobs.mutex);
    }
    int done = job->done;
    if (!done) job->waited = 0; /* the loader frees it */
    pthread_mutex_unlock(&jobs.mutex);
    return done ? 0 : -1;
}

static void free_blocked_job(RedisModuleCtx *ctx, void *job) {
    (void)ctx;
    job_free(job);
}

int loader_post_blocking(RedisModuleCtx *ctx, Job *job, RedisModuleCmdFunc reply) {
    job->blocked = RedisModule_BlockClient(ctx, reply, NULL, free_blocked_job, 0);
    if (job->blocked == NULL) {
        job_free(job);
        RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
        return REDISMODULE_OK;
    }
    RedisModule_BlockedClientMeasureTimeStart(job->blocked);
    loader_post(job);
    return REDISMODULE_OK;
}

/* ---- what Python calls, on the loader thread --------------------------------------------------------------------- */

static Job *next_job(void) {
    pthread_mutex_lock(&jobs.mutex);
    while (!jobs.urgent.first && !jobs.others.first) pthread_cond_wait(&jobs.posted, &jobs.mutex);
    JobList *list = jobs.urgent.first ? &jobs.urgent : &jobs.others;
    Job *job = list->first;
    list->first = job->next;
    if (list->first == NULL) list->last = NULL;
    pthread_mutex_unlock(&jobs.mutex);
    return job;
}

/* What was overwritten or deleted before its turn came, as most of what an AOF stores: nobody else has it. */
static int is_unwanted(const Job *job) {
    return job->kind == JOB_LOAD && !job->blocked && !job->waited &&
           __atomic_load_n(&job->runnable->refs, __ATOMIC_ACQUIRE) == 1;
}

Job *bridge_next_job(void) {
    Job *job = next_job();
    while (is_unwanted(job)) {
        job_free(job);
        job = next_job();
    }
    return job;
}

void bridge_ready(Runnable *runnable, struct Queue *queue, int ninputs, const char **inputs, int noutputs,
                  const char **outputs) {
    if (runnable_is_ready(runnable)) return;
    if (runnable->kind == KIND_MODEL) {
        Model *model = (Model *)runnable;
        for (int i = 0; i < ninputs; i++) names_append_copy(&model->declared_inputs, inputs[i]);
        for (int i = 0; i < noutputs; i++) names_append_copy(&model->declared_outputs, outputs[i]);
    }
    runnable->queue = queue;
    __atomic_store_n(&runnable->ready, 1, __ATOMIC_RELEASE);
}

void bridge_finish_job(Job *job, const char *error) {
    if (job->kind == JOB_DROP) {
        runnable_destroy(job->runnable);
        job->runnable = NULL;
        job_free(job);
        return;
    }
    if (job->kind == JOB_FORWARD) {
        op_forward(job->op, error);
        job_free(job);
        return;
    }
    if (error) job->error = RedisModule_Strdup(error);
    if (job->blocked) {
        RedisModule_BlockedClientMeasureTimeEnd(job->blocked);
        unblock_to_write(job->blocked, job);
        return;
    }
    /* Who waits may give up meanwhile; from then on the job is ours. */
    pthread_mutex_lock(&jobs.mutex);
    int waited = job->waited;
    if (waited) {
        job->done = 1;
        pthread_cond_broadcast(&jobs.finished); /* the main thread or workers, several at once */
    }
    pthread_mutex_unlock(&jobs.mutex);
    if (waited) return;
    if (error) RedisModule_Log(log_context, "warning", "%s", error);
    job_free(job);
}
