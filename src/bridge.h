/* bridge.h - every C function that Python may call, and the structs it may look into; nothing else.
 *
 * cffi reads this very file (lines that start with '#' are dropped), so it holds plain declarations only: no macros
 * beyond integer constants, no atomics in types. Fields that several threads touch are accessed in C through the
 * __atomic builtins; Python only reads them.
 *
 * All functions here are called with the GIL released, from the loader (redisai/loader.py) or from workers
 * (redisai/worker.py), never from Redis's main thread. Strings are NUL-terminated UTF-8; those handed in are copied. */
#ifndef BRIDGE_H
#define BRIDGE_H

#include <stdint.h>

/* ---- values ---------------------------------------------------------------------------------------------------- */

#define DTYPE_FLOAT 0
#define DTYPE_DOUBLE 1
#define DTYPE_INT8 2
#define DTYPE_INT16 3
#define DTYPE_INT32 4
#define DTYPE_INT64 5
#define DTYPE_UINT8 6
#define DTYPE_UINT16 7
#define DTYPE_BOOL 8
#define DTYPE_STRING 9

#define BACKEND_TF 0
#define BACKEND_TFLITE 1
#define BACKEND_TORCH 2
#define BACKEND_ONNX 3

/* A tensor: immutable once built, shared by counting references (src/tensor.h). */
typedef struct Tensor {
    int64_t length;    /* number of elements, the product of shape; 1 for rank 0, may be 0 for outputs */
    uint64_t size;     /* bytes of data */
    char *data;        /* C order; STRING: NUL-terminated strings one after another. Aligned to 64 bytes unless owner */
    int64_t *shape;    /* ndim dimensions */
    uint64_t *offsets; /* STRING: length byte offsets into data; NULL for every other type */
    struct RedisModuleString *owner; /* of a large tensor: the string that data lies in, unaligned; else NULL */
    int32_t dtype;                   /* DTYPE_... */
    int32_t ndim;
    int32_t refs; /* atomic */
} Tensor;

/* A stretch of a model's blob. owner is the Redis string that holds the bytes, or NULL: then data is our allocation. */
typedef struct Piece {
    const char *data;
    uint64_t size;
    struct RedisModuleString *owner;
} Piece;

typedef struct Names {
    int64_t count;
    char **names;
} Names;

#define KIND_MODEL 0
#define KIND_SCRIPT 1

/* What models and scripts have in common: a definition that the loader compiles once and workers then run
 * (src/runnable.h). The definition is immutable; what the loader finds out is written before `ready` is set. */
typedef struct Runnable {
    uint64_t id;     /* the handle under which Python keeps the compiled session; never used twice */
    int32_t kind;    /* KIND_...: which of Model and Script this is the beginning of */
    int32_t backend; /* BACKEND_...; TORCH for scripts */
    char *device;    /* as the client gave it, in any case */
    char *tag;
    uint64_t tag_size;

    int32_t refs;        /* atomic */
    int32_t ready;       /* atomic; once set, queue and what the loader declared are there and never change */
    struct Queue *queue; /* where its runs go */

    int64_t calls; /* atomic, all four: for AI.INFO */
    int64_t errors;
    int64_t duration; /* us */
    int64_t samples;
} Runnable;

typedef struct Model {
    Runnable base;
    int64_t batchsize;
    int64_t minbatchsize;
    int64_t minbatchtimeout; /* ms */
    Names inputs;            /* as given when stored (TF), or as read from an RDB */
    Names outputs;
    Piece *pieces;
    int64_t npieces;
    uint64_t blob_size;
    Names declared_inputs; /* what the model itself declares; owned by the model */
    Names declared_outputs;
} Model;

typedef struct Script {
    Runnable base;
    char *source;       /* NUL-terminated */
    Names entry_points; /* none: stored the old way, any function may be called */
} Script;

/* ---- runs ------------------------------------------------------------------------------------------------------ */

#define RUN_WAITING 0 /* nobody has answered the client yet */
#define RUN_DONE 1
#define RUN_TIMEDOUT 2
#define RUN_GONE 3 /* the client disconnected */

/* Bytes of a key or an argument, with a NUL behind them that size does not count. */
typedef struct Bytes {
    const char *data;
    uint64_t size;
} Bytes;

/* One execution of a model or of a script's function. Python reads all up to duration, and hands back outputs or an
 * error. */
typedef struct Run {
    Runnable *runnable;
    uint64_t id; /* runnable's */
    Tensor **inputs;
    Tensor **outputs; /* NULL until set; one that stays NULL is not stored (an ONNX sequence or map) */
    int32_t ninputs;
    int32_t noutputs;
    const char *function; /* scripts only, like the rest up to variadic; NULL for models */
    Bytes *keys;          /* what KEYS declared: all that the script's commands may touch */
    Bytes *args;
    int32_t nkeys;
    int32_t nargs;
    int32_t variadic; /* AI.SCRIPTRUN: index of the first input behind `$`, which make one list; -1: no `$` */
    int32_t state;    /* atomic; a run that is not RUN_WAITING needs no work any more */
    int64_t duration; /* us, written by the worker; -1: not executed, and not counted by AI.INFO */

    /* The rest belongs to C (src/run.c). */
    char *error;
    char *user; /* scripts: the name of the user who called */
    int32_t db;
    struct RedisModuleBlockedClient *blocked;
    uint64_t timer;
    int32_t has_timer;
    int32_t refs;        /* atomic: one for the client, one for the worker */
    int32_t output_keys; /* index in the command's argv of the first output key */
    struct Run *next;    /* in its queue */
    struct Run *chained; /* in the table of blocked clients */
} Run;

/* ---- Redis from scripts (src/script_calls.c) ---------------------------------------------------------------------
 *
 * The worker that runs the script calls these; they take the Redis lock, holding neither the GIL nor a mutex. */

#define REPLY_NULL 0
#define REPLY_STRING 1 /* status and bulk replies: text, size */
#define REPLY_INTEGER 2
#define REPLY_DOUBLE 3
#define REPLY_ARRAY 4 /* items, count */
#define REPLY_ERROR 5 /* text, size: with its code, "ERR ..." */

typedef struct Reply {
    int32_t type;
    int64_t integer;
    double real;
    char *text;
    uint64_t size;
    struct Reply *items;
    int64_t count;
} Reply;

/* Runs a Redis command as the user who called the script, in the script's database. Only declared keys may be touched;
 * whatever is refused, fails, or cannot be done here comes back as REPLY_ERROR. Free it with bridge_free_reply. */
Reply *bridge_call(Run *run, const Bytes *words, int count);
void bridge_free_reply(Reply *reply);

/* The model at a declared key, compiled: the caller holds a reference until bridge_release_model. NULL with *error
 * set, to be freed with bridge_free. Waits for the loader where the model is not compiled yet. */
Model *bridge_hold_model(Run *run, Bytes key, char **error);
/* failed: counted as an error in AI.INFO; duration in us, -1: not executed, nothing is counted. */
void bridge_release_model(Model *model, int64_t duration, int64_t samples, int failed);

struct Queue;

/* No tensor may take more bytes than this: Redis's limit for one value, proto-max-bulk-len, but at least 512 MB. */
uint64_t bridge_max_tensor_bytes(void);

/* Waits until the queue holds work; moves at most max runs into runs and returns how many, at least 1. Runs whose
 * client has gone or timed out are dropped on the way. worker (0 .. threads_per_queue - 1) is for CPU accounting. */
int bridge_take_runs(struct Queue *queue, int worker, Run **runs, int max);

/* Copies one output: data holds size bytes in C order; shape holds ndim dimensions. For DTYPE_STRING data is the
 * NUL-terminated strings one after another. Returns 0, or -1 after failing the run with a message that says why
 * (index out of range, sizes that do not agree, no memory). */
int bridge_set_output(Run *run, int index, int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size);

/* The run failed; the client gets "ERR " and this message (line breaks become spaces). The first message stays. */
void bridge_fail(Run *run, const char *message);

/* Hands n runs back, finished or failed: their clients are answered. They must not be touched afterwards. */
void bridge_give_back(Run **runs, int n);

/* ---- jobs of the loader ---------------------------------------------------------------------------------------- */

#define JOB_LOAD 0    /* compile job.runnable, unless it is compiled already */
#define JOB_DROP 1    /* forget the session of job.runnable; finishing the job frees it */
#define JOB_FORWARD 2 /* job.run came for what was not ready: compile job.runnable if need be */
#define JOB_IMPORT 3  /* import backend job.backend from job.path */

typedef struct Job {
    int32_t kind;
    int32_t backend;
    char *path; /* JOB_IMPORT: absolute; NULL: the default place below the backends path */
    Runnable *runnable;
    Run *run;

    /* The rest belongs to C (src/loader.c). */
    char *error;
    struct RedisModuleBlockedClient *blocked;
    int32_t waited; /* the main thread waits for it */
    int32_t done;
    struct Job *next;
} Job;

/* Waits for the next job; jobs come in the order in which they were posted. */
Job *bridge_next_job(void);

/* JOB_LOAD, JOB_FORWARD: it is compiled. Declares a model's inputs and outputs (none for scripts) and the device queue
 * its runs go to; from now on its runs go there directly. */
void bridge_ready(Runnable *runnable, struct Queue *queue, int ninputs, const char **inputs, int noutputs,
                  const char **outputs);

/* Finishes a job, with error NULL where it succeeded. It must not be touched afterwards. For JOB_FORWARD the run is
 * passed on to its queue, or answered with the error. */
void bridge_finish_job(Job *job, const char *error);

/* ---- queues and surroundings ----------------------------------------------------------------------------------- */

/* The queue of a device ("CPU", "CPU:1", "GPU:0": upper case), made on first use; the caller starts its
 * threads_per_queue workers. NULL when there are too many queues already (64, of which two are kept for
 * "CPU" and "GPU"). Loader only. */
struct Queue *bridge_open_queue(const char *device);

typedef struct Options {
    int64_t threads_per_queue;
    int64_t intra_op_parallelism;    /* 0: cores - 1, shared among the workers of a queue */
    int64_t inter_op_parallelism;    /* 0: the library's default */
    int64_t model_execution_timeout; /* ms */
    int64_t backend_memory_limit;    /* MB, 0: none */
    int64_t allow_file_ops;          /* 1: models may have operations that touch files or run Python */
} Options;

const Options *bridge_options(void);

/* A copy of the backends path, to be freed with bridge_free. */
char *bridge_backends_path(void);
void bridge_free(char *text);

/* A backend was imported: its version for INFO MODULES. */
void bridge_backend_loaded(int backend, const char *version);

/* Figures for INFO MODULES: bytes of the models that ONNX Runtime holds, runs started, most runs at once. */
void bridge_onnx_figures(int64_t memory, int64_t accesses, int64_t sessions);

/* level: "debug", "verbose", "notice", "warning". */
void bridge_log(const char *level, const char *message);

/* The engine is up (error NULL) or could not start; called once, before the first job. */
void bridge_engine_started(const char *error);

#endif
