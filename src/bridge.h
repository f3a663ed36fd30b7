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

#include <stddef.h>
#include <stdint.h>

/* ---- values ------------------------------------------------------------------------------------------------------ */

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

    int64_t calls; /* atomic, all of them: for AI.INFO (src/stats.c) */
    int64_t errors;
    int64_t duration; /* us */
    int64_t samples;
    int64_t executions;            /* a batch counts once */
    struct Histogram *queue_times; /* us; NULL until first needed */
    struct Histogram *run_times;
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

/* ---- runs -------------------------------------------------------------------------------------------------------- */

#define RUN_WAITING 0 /* nobody has answered the client yet */
#define RUN_DONE 1
#define RUN_TIMEDOUT 2
#define RUN_GONE 3 /* the client disconnected */

/* Bytes of a key or an argument, with a NUL behind them that size does not count. */
typedef struct Bytes {
    const char *data;
    uint64_t size;
} Bytes;

#define OP_WAITING 0 /* for outputs of other ops of its run */
#define OP_QUEUED 1  /* on its way to a worker, who has not begun */
#define OP_RUNNING 2
#define OP_DONE 3
#define OP_FAILED 4
#define OP_SKIPPED 5 /* another op of its run failed before it began */

/* One execution of a model or of a script's function. Python reads all up to duration, and hands back outputs or an
 * error. */
typedef struct Op {
    struct Run *run;
    Runnable *runnable;
    uint64_t id;      /* runnable's */
    Tensor **inputs;  /* all there from OP_QUEUED on; the run holds the references */
    Tensor **outputs; /* NULL until set; one that stays NULL is not stored (an ONNX sequence or map) */
    int32_t ninputs;
    int32_t noutputs;
    uint64_t lane; /* equal for ops that may run in one batch: same model, types and shapes but the 0th dimension.
                      Others that happen to have the same number are told apart by bridge_gather() */
    int64_t rows;  /* what it adds to a batch, the 0th dimension of its inputs; 0: it runs by itself */
    int64_t since; /* ns of the monotonic clock when its command came */
    const char *function; /* scripts only, like the rest up to variadic; NULL for models */
    Bytes *keys;          /* what KEYS declared: all that the script's commands may touch */
    Bytes *args;
    int32_t nkeys;
    int32_t nargs;
    int32_t variadic; /* AI.SCRIPTRUN: index of the first input behind `$`, which make one list; -1: no `$` */
    int64_t duration; /* us, written by the worker; -1: not executed, and not counted by AI.INFO */

    /* The rest belongs to C (src/op.c). */
    int32_t state;     /* atomic, OP_... */
    int32_t waits_for; /* atomic: inputs that other ops have yet to give */
    int32_t chained;   /* has inputs that other ops give */
    int32_t follows;   /* ran in a batch behind another op, whose execution this was */
    int32_t held;      /* atomic: the batcher has it (src/queue.c) */
    int64_t queued;    /* ns, when it went to its queue */
    int64_t begun;     /* ns */
    char *error;
    struct Op *next; /* in its queue */
} Op;

/* An input of an op that is the output of another. */
typedef struct Use {
    int32_t op;
    int32_t input;
    int32_t next; /* use of the same slot; -1: none */
} Use;

/* Whatever one command executes: its ops, and their tensors in numbered slots. MODELEXECUTE is a run of one op. */
typedef struct Run {
    int32_t state; /* atomic; a run that is not RUN_WAITING needs no work any more */
    int32_t nops;

    /* The rest belongs to C (src/run.c). */
    Op *ops;
    Tensor **slots; /* references; an op's outputs lie one after another */
    int32_t nslots;
    int32_t failed;      /* atomic: an op failed, no other begins */
    int32_t active;      /* atomic: ops queued or running */
    int32_t refs;        /* atomic: one for the client, one for each op on its way */
    int32_t owns_args;   /* slots hold strings of the command itself: only the main thread may free it */
    int32_t *first_uses; /* by slot, into uses; -1: none. NULL where there is one op */
    Use *uses;
    int32_t nuses;
    Tensor **next_input;  /* where the inputs of the next op to be added go */
    struct Store *stores; /* what goes to the keyspace in the end */
    int32_t nstores;
    int32_t nsteps;
    struct Step *steps; /* DAGs: the commands, for the reply */
    char *user;         /* scripts: the name of the user who called */
    Bytes routing;      /* DAGs: the value of ROUTING; data NULL: none */
    int32_t db;
    int32_t has_timer;
    uint64_t timer;
    struct RedisModuleBlockedClient *blocked;
    struct Run *next; /* in the table of blocked clients */
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
Reply *bridge_call(Op *op, const Bytes *words, int count);
void bridge_free_reply(Reply *reply);

/* The model at a declared key, compiled: the caller holds a reference until bridge_release_model. NULL with *error
 * set, to be freed with bridge_free. Waits for the loader where the model is not compiled yet. */
Model *bridge_hold_model(Op *op, Bytes key, char **error);
/* failed: counted as an error in AI.INFO; duration in us, -1: not executed, nothing is counted. */
void bridge_release_model(Model *model, int64_t duration, int64_t samples, int failed);

/* ---- ops and batches --------------------------------------------------------------------------------------------- */

struct Queue;

/* No tensor may take more bytes than this: Redis's limit for one value, proto-max-bulk-len, but at least 512 MB. */
uint64_t bridge_max_tensor_bytes(void);

#define TAKE_PLAIN 32
#define TAKE_BATCHED 256

/* What a worker gets off its queue. */
typedef struct Taken {
    Op *plain[TAKE_PLAIN];     /* run by themselves */
    Op *batched[TAKE_BATCHED]; /* may run with others: rows is not 0 */
    int32_t nplain;
    int32_t nbatched;
    int32_t woken; /* the moment that bridge_wake_at() set has come */
    int32_t sweep; /* of the batched ops taken earlier and not begun yet, many are not wanted any more */
} Taken;

/* Takes all ops for batches (up to TAKE_BATCHED) and at most most (1 .. TAKE_PLAIN) others, in the order in which they
 * came. With wait set, waits until there is anything in taken. worker (0 .. threads_per_queue - 1) is for CPU
 * accounting. */
void bridge_take_ops(struct Queue *queue, int worker, Taken *taken, int most, int wait);

/* Some worker of the queue shall come back from bridge_take_ops at this moment (ns of the monotonic clock; the past: at
 * once; 0: not at all). A queue has one such moment. */
void bridge_wake_at(struct Queue *queue, int64_t moment);

/* Drops the ops whose client has gone or timed out, or whose run has failed; keeps the others, in order, and returns
 * their number. Those dropped must not be touched afterwards. */
int bridge_sweep_ops(Op **ops, int n);

/* The same, and from now on those kept are running: each must be given to bridge_finish_ops. */
int bridge_begin_ops(Op **ops, int n);

/* Copies one output: data holds size bytes in C order; shape holds ndim dimensions. For DTYPE_STRING data is the
 * NUL-terminated strings one after another. Returns 0, or -1 after failing the op with a message that says why
 * (index out of range, sizes that do not agree, no memory). */
int bridge_set_output(Op *op, int index, int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size);

/* Puts input number input of n ops of one lane one behind the other: size bytes, the sum of theirs. Not for STRING.
 * Returns 0, or -1 where the ops do not fit together: then they must run one by one. */
int bridge_gather(Op **ops, int n, int input, void *into, uint64_t size);

/* Copies one output of a batch to each of its n ops, op by op as many rows of it as the op has. Not for STRING. Returns
 * 0, or -1, having changed nothing, where shape[0] is not the sum of the ops' rows or ndim is 0. An op whose part is
 * refused fails, as of bridge_set_output. */
int bridge_scatter(Op **ops, int n, int output, int dtype, int ndim, const int64_t *shape, const void *data,
                   uint64_t size);

/* n ops ran as one, in so many us. */
void bridge_batch_ran(Op **ops, int n, int64_t duration);

/* The op failed; the client gets "ERR " and this message (line breaks become spaces). The first message stays. */
void bridge_fail(Op *op, const char *message);

/* Hands n ops back, done or failed: they must not be touched afterwards. Clients whose run is complete are answered.
 * Ops that waited for these and can be run now go to their queues or come in ready (room for most), if they need no
 * batch: whoever calls runs them or pushes them. Returns how many are in ready. */
int bridge_finish_ops(Op **ops, int n, Op **ready, int most);

/* Sends ops that bridge_finish_ops gave to the queues of their devices. */
void bridge_push_ops(Op **ops, int n);

/* ---- runs without Python (src/direct.c) --------------------------------------------------------------------------
 *
 * The functions of ONNX Runtime's and TensorFlow's C API that a run takes, by the libraries' own names and as these
 * declare them (pointers to their structs are void * here). Python finds them in the libraries. */

typedef struct OnnxApi {
    void *(*CreateTensorWithDataAsOrtValue)(const void *memory, void *data, size_t size, const int64_t *shape,
                                            size_t ndim, int type, void **value);
    void *(*Run)(void *session, const void *options, const char *const *input_names, const void *const *inputs,
                 size_t ninputs, const char *const *output_names, size_t noutputs, void **outputs);
    void *(*GetTensorTypeAndShape)(const void *value, void **info);
    void *(*GetTensorElementType)(const void *info, int *type);
    void *(*GetDimensionsCount)(const void *info, size_t *ndim);
    void *(*GetDimensions)(const void *info, int64_t *shape, size_t ndim);
    void *(*GetTensorShapeElementCount)(const void *info, size_t *length);
    void *(*GetTensorMutableData)(void *value, void **data);
    const char *(*GetErrorMessage)(const void *status);
    void (*ReleaseTensorTypeAndShapeInfo)(void *info);
    void (*ReleaseValue)(void *value);
    void (*ReleaseStatus)(void *status);
} OnnxApi;

typedef struct TfApi {
    void *(*TF_NewTensor)(int type, const int64_t *shape, int ndim, void *data, size_t size,
                          void (*free)(void *, size_t, void *), void *argument);
    void (*TF_SessionRun)(void *session, const void *options, const void *feeds, void *const *inputs, int ninputs,
                          const void *fetches, void **outputs, int noutputs, const void *const *targets, int ntargets,
                          void *metadata, void *status);
    int (*TF_TensorType)(const void *tensor);
    int (*TF_NumDims)(const void *tensor);
    int64_t (*TF_Dim)(const void *tensor, int dimension);
    size_t (*TF_TensorByteSize)(const void *tensor);
    void *(*TF_TensorData)(const void *tensor);
    void (*TF_DeleteTensor)(void *tensor);
    void *(*TF_NewStatus)(void);
    void (*TF_DeleteStatus)(void *status);
    int (*TF_GetCode)(const void *status);
    const char *(*TF_Message)(const void *status);
} TfApi;

#define DIRECT_MOST 8 /* inputs, and outputs; models with more are run by Python */

/* A compiled model that takes and gives numbers only. Python keeps alive all that this points to. */
typedef struct Direct {
    const OnnxApi *onnx; /* either this or tf is set */
    const TfApi *tf;
    void *session;
    void *memory;        /* ONNX: what describes the CPU's memory */
    const void *inputs;  /* ONNX: names, const char *[]; TF: TF_Output[] */
    const void *outputs; /* the same */
    int32_t ninputs;
    int32_t noutputs;
    int32_t types[DIRECT_MOST]; /* DTYPE_... of each input */
} Direct;

/* Runs the first of n begun ops one by one, as long as they are of the model of the first, can be run so (all inputs
 * of the right types, none that has to be copied) and `until` (ns of the monotonic clock) has not come; one at least
 * where it can. Returns how many are done: they must be given to bridge_finish_ops, and those whose client has gone
 * meanwhile are among them. *error is set where the next one has failed in the library, to its text; free it with
 * bridge_free. options: OrtRunOptions for ONNX. */
int bridge_run_direct(const Direct *direct, Op **ops, int n, int64_t until, const void *options, char **error);

/* ---- jobs of the loader ------------------------------------------------------------------------------------------ */

#define JOB_LOAD 0    /* compile job.runnable, unless it is compiled already */
#define JOB_DROP 1    /* forget the session of job.runnable; finishing the job frees it */
#define JOB_FORWARD 2 /* job.op came for what was not ready: compile job.runnable if need be */
#define JOB_IMPORT 3  /* import backend job.backend from job.path */

typedef struct Job {
    int32_t kind;
    int32_t backend;
    char *path; /* JOB_IMPORT: absolute; NULL: the default place below the backends path */
    Runnable *runnable;
    Op *op;

    /* The rest belongs to C (src/loader.c). */
    char *error;
    struct RedisModuleBlockedClient *blocked;
    int32_t waited; /* the main thread waits for it */
    int32_t done;
    struct Job *next;
} Job;

/* Waits for the next job. Jobs come in the order in which they were posted, but those that a client or thread waits for
 * who needs what is stored already come first. */
Job *bridge_next_job(void);

/* JOB_LOAD, JOB_FORWARD: it is compiled. Declares a model's inputs and outputs (none for scripts) and the device queue
 * its runs go to; from now on its runs go there directly. */
void bridge_ready(Runnable *runnable, struct Queue *queue, int ninputs, const char **inputs, int noutputs,
                  const char **outputs);

/* Finishes a job, with error NULL where it succeeded. It must not be touched afterwards. For JOB_FORWARD the op is
 * passed on to its queue, or fails with the error. */
void bridge_finish_job(Job *job, const char *error);

/* ---- queues and surroundings ------------------------------------------------------------------------------------- */

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
