/* jobs.h - the queue of jobs for the loader, the one thread that imports backends and compiles models and scripts.
 *
 * The main thread and workers post jobs. The loader (redisai/loader.py) takes them in order, urgent ones first. It
 * never waits for the main thread, so that one may wait for a job where Redis forbids blocking the client. */
#pragma once

#include "bridge.h"
#include "redis/api.h"

typedef struct LoaderJob {
    Job job; /* Python's part */
    /* Called once, by the loader's thread, when the job is finished; the callback owns the job from then on. NULL: an
     * error goes to the log, and the job is freed. */
    void (*finished)(struct LoaderJob *job);
    void *data;     /* for finished */
    char *error;    /* NULL: it succeeded */
    int is_urgent;  /* a client or thread waits for a runnable that is stored already */
    int is_awaited; /* by a thread */
    int is_early;   /* the server is ready only once it is done */
    int is_done;
    struct LoaderJob *next;
} LoaderJob;

LoaderJob *job_new(int kind, Runnable *runnable); /* JOB_...; takes the reference over; NULL: none */
void job_free(LoaderJob *job);                    /* and what it holds: the runnable's reference, path, error */

/* Hands the job over to the loader. */
void job_post(LoaderJob *job);

/* The same in the background; until it is done, the server is not ready. Main thread. */
void job_post_early(LoaderJob *job);

/* How many of these are not done. The server is ready once it has its data and this is 0. */
int64_t jobs_early(void);

/* The model's limits have changed, and the loader shall tell the workers. */
void jobs_post_limits(Runnable *model);

/* Posts the job and waits until it is finished; then the caller reads job->error and frees the job. Holding no lock. */
void job_post_and_wait(LoaderJob *job);

/* The same on the main thread, which gives up once all that it has waited for in this iteration of the event loop took
 * JOB_PATIENCE: or models that never finish compiling would stop the server, one after another in a transaction.
 * Returns -1 then: the job goes on, or is not even posted, and is no longer the caller's. */
int job_post_and_wait_briefly(LoaderJob *job);
#define JOB_PATIENCE 5 /* s: as long as Redis waits for a script (busy-reply-threshold) */

/* Where the loader of another process gets jobs from, it takes them from such a queue. Any thread. */
typedef struct JobList {
    LoaderJob *first;
    LoaderJob *last;
} JobList;

typedef struct JobQueue {
    JobList urgent; /* go first: after a start, hundreds of others may wait to be compiled */
    JobList others;
} JobQueue;

void job_queue_add(JobQueue *queue, LoaderJob *job);
LoaderJob *job_queue_take(JobQueue *queue); /* NULL: there is none */

/* From now on, job_post gives all jobs to this function. At load. */
typedef void JobRouter(LoaderJob *job);
void jobs_set_router(JobRouter *route);

void jobs_init(void); /* at load, before any value is made */
