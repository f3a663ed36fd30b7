/* bridge.h - what Python reads and calls, and nothing else.
 *
 * cffi reads this very file and drops lines that start with '#'. So the file holds plain declarations only: no macros
 * except integer constants, no atomics in types. A struct that C extends holds Python's part here; C's own part is in
 * a header of the folder that owns it (run/state.h, engine/jobs.h, values/runnable.h).
 *
 * The loader (redisai/loader.py) and the workers (redisai/worker.py) call these functions with the GIL released.
 * Redis's main thread calls none of them. Strings are NUL-terminated UTF-8. C copies those that Python gives it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* ---- values ------------------------------------------------------------------------------------------------------ */

#define CODE_INT 0 /* DLPack's, as saved in RDB files */
#define CODE_UINT 1
#define CODE_FLOAT 2
#define CODE_BFLOAT 4
#define CODE_BOOL 6
#define CODE_STRING 7 /* not DLPack's */

/* A type of elements; values/dtype.c has the table. */
typedef struct Dtype {
    const char *name; /* as commands call it */
    int32_t code;     /* CODE_... */
    int32_t bits;     /* of an element; STRING: of its NUL */
    int32_t onnx;     /* ONNX's number of the type */
    int32_t tf;       /* TensorFlow's */
    int32_t torch;    /* PyTorch's; -1: none */
} Dtype;

/* The dtype of this number; NULL: there is none. */
const Dtype *bridge_dtype(int number);

#define BACKEND_TF 0 /* as saved in RDB files; values/backend.c has the table */
#define BACKEND_TFLITE 1
#define BACKEND_TORCH 2
#define BACKEND_ONNX 3

typedef struct Backend {
    const char *name;    /* as commands call it */
    const char *folder;  /* below the backends path */
    const char *package; /* what pip calls the library */
} Backend;

/* The backend of this number; NULL: there is none. */
const Backend *bridge_backend(int number);

/* A tensor: immutable once built, shared by counting references (values/tensor.h). */
typedef struct Tensor {
    int64_t length;    /* number of elements, the product of shape; 1 for rank 0, may be 0 for outputs */
    uint64_t size;     /* bytes of data */
    char *data;        /* C order; STRING: elements of any bytes, a NUL behind each. Aligned to 64 bytes unless owner */
    int64_t *shape;    /* ndim dimensions */
    uint64_t *offsets; /* STRING: where each element starts in data; NULL for every other type */
    struct RedisModuleString *owner; /* of a large tensor: the string that data lies in, unaligned; else NULL */
    int32_t dtype;                   /* number of its Dtype */
    int32_t ndim;
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

/* What a session says of its model. The ports are the items of an array that a client gets, each a text: "[" and "]"
 * begin and end an array, ":" begins a number, "$" a text; "_" is null. */
typedef struct Declared {
    Names inputs;
    Names outputs;
    Names input_ports;
    Names output_ports;
    int64_t least_inputs; /* how many inputs a run may have; -1: the model does not say, likewise for noutputs */
    int64_t most_inputs;
    int64_t noutputs;
    int64_t is_stateful; /* a run may change what later runs give */
} Declared;

#define KIND_MODEL 0
#define KIND_SCRIPT 1

/* What models and scripts have in common: a definition that the loader compiles once and that workers then run. The
 * definition is immutable. */
typedef struct Runnable {
    uint64_t id;     /* Python keeps the compiled session under it; never used twice */
    int32_t kind;    /* KIND_...: whether a Model or a Script starts with this */
    int32_t backend; /* BACKEND_...; TORCH for scripts */
    char *device;    /* as the client gave it, in any case */
    char *tag;
    uint64_t tag_size;
    struct Queue *queue;   /* where its ops go; set by bridge_ready(), like the next */
    struct Direct *direct; /* how C runs it; NULL: Python does */
    int64_t alone; /* atomic: so many of the next ops of a model with BATCHSIZE run alone, as if it had none; Python
                      sets it */
    struct RunnableState *state; /* C's own part (values/runnable.h) */
} Runnable;

#define AUTO_BATCHSIZE -1
#define AUTO_SIZES 9 /* of batches: 1, 2, 4 ... */
#define AUTO_ROWS 256

/* What BATCHSIZE auto has found out, for AI.INFO. */
typedef struct Tuning {
    int64_t rows;              /* at most in a batch */
    int64_t wait;              /* ns at most for the next batch */
    int64_t rates[2];          /* ops per second when they were compared, in batches and alone; 0: they were not */
    int64_t costs[AUTO_SIZES]; /* ns per row; 0: not known */
} Tuning;

/* Of models and ops. 0: none is said. */
#define PRIORITY_LOW 1
#define PRIORITY_NORMAL 2
#define PRIORITY_HIGH 3
#define PRIORITIES 4 /* numbers, with 0 */

/* Of a model; the rest of its definition never changes. The main thread changes a number, others read it at any time.
 */
typedef struct ModelLimits {
    int64_t batchsize; /* or AUTO_BATCHSIZE */
    int64_t minbatchsize;
    int64_t minbatchtimeout;    /* ms */
    int64_t minbatchtimeout_us; /* more than these ms: 0 .. 999 */
    int64_t maxqueue;           /* runs that may wait; 0: any number */
    int64_t timeout;            /* ms, of runs that say none; 0: none */
    int64_t priority;           /* of runs that say none: PRIORITY_LOW, PRIORITY_HIGH or 0, which is normal */
    int64_t cache;              /* bytes of inputs and outputs that are kept (values/cache.h); 0: none */
} ModelLimits;

typedef struct Model {
    Runnable base;
    ModelLimits limits;
    Names inputs; /* as given when stored (TF), or as read from an RDB */
    Names outputs;
    Names warmups; /* inputs that it is run with once it is compiled, each "count type dimension ... type ..." */
    Piece *pieces;
    int64_t npieces;
    uint64_t blob_size;
    Declared declared; /* set by bridge_ready() */
} Model;

typedef struct Script {
    Runnable base;
    char *source;       /* NUL-terminated */
    Names entry_points; /* none: stored the old way, any function may be called */
} Script;

/* ---- ops --------------------------------------------------------------------------------------------------------- */

/* Bytes of a key or an argument. A NUL follows them, which size does not count. */
typedef struct Bytes {
    const char *data;
    uint64_t size;
} Bytes;

struct Run;

/* One execution of a model or of a script's function. Python reads it, sets duration, and gives back outputs or an
 * error through the functions below. */
#define SPLIT_NS 20000

typedef struct Op {
    struct Run *run; /* what the op belongs to: all ops of one command */
    Runnable *runnable;
    uint64_t id;      /* runnable's */
    Tensor **inputs;  /* complete once the op is queued; the run holds the references */
    Tensor **outputs; /* NULL until set; the op fails if one stays NULL */
    int32_t ninputs;
    int32_t noutputs;
    uint64_t batch_key; /* equal for ops that may share a batch: same model, types, and shapes except the 0th dimension.
                           Ops that do not fit may have one key by chance: bridge_gather() finds that out */
    int64_t rows;       /* what it adds to a batch: the 0th dimension of its inputs; 0: it runs alone */
    int64_t arrival;    /* ns of the monotonic clock when its command came */
    const char *function; /* scripts only, like the fields down to nargs; NULL for models */
    Bytes *keys;          /* the keys declared with KEYS: the script's commands may touch no others */
    Bytes *args;
    int32_t nkeys;
    int32_t nargs;
    int64_t duration;      /* us that the worker took to convert the inputs, to run the library, and to copy the
                              outputs into tensors. The same on the direct path and in Python. In a batch, us of the
                              whole batch. -1: not executed, AI.INFO does not count it */
    const Tuning *tuning;  /* NULL: no news */
    int64_t input_ns;      /* of the duration: converting the inputs, and copying the outputs. 0, or both, where the */
    int64_t output_ns;     /* model's latest run took less than SPLIT_NS: reading the clock would cost too much */
    int32_t is_direct;     /* its outputs or its error come from the library by the direct path */
    int32_t priority;      /* PRIORITY_LOW .. PRIORITY_HIGH */
    struct OpState *state; /* C's own part (run/state.h) */
} Op;

/* ---- Redis from scripts (run/script_calls.c) ---------------------------------------------------------------------
 *
 * The worker that runs the script calls these and sleeps until the main thread has performed the call. */

#define REPLY_NULL 0
#define REPLY_STRING 1 /* status and bulk replies: text, size */
#define REPLY_INTEGER 2
#define REPLY_ARRAY 3 /* items, count */
#define REPLY_ERROR 4 /* text, size: with its code, "ERR ..." */

typedef struct Reply {
    int32_t type;
    int64_t integer;
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
/* failed, is_direct: counted in AI.INFO; duration in us, -1: not executed, nothing is counted. */
void bridge_release_model(Model *model, int64_t duration, int64_t samples, int failed, int is_direct);

/* ---- ops and batches --------------------------------------------------------------------------------------------- */

struct Queue;

/* No tensor may take more bytes than this: Redis's limit for one value, proto-max-bulk-len, but at least 512 MB. */
uint64_t bridge_max_tensor_bytes(void);

#define TAKE_PLAIN 32
#define TAKE_BATCHED 256
#define READY_OPS 64
#define ALL_MODELS -1
#define CHUNK_NS 200000 /* of work that a worker takes at once: more would keep it from the queue's other workers */

/* What a worker has to do. */
typedef struct Taken {
    Op *plain[TAKE_PLAIN];     /* run alone */
    Op *batched[TAKE_BATCHED]; /* may run with others: rows is not 0 */
    Op *ready[READY_OPS];      /* as bridge_finish_ops gave them */
    Op *failed;                /* has begun, and failed in the library when C ran it; NULL: none */
    char *error;               /* the library's text about that; free it with bridge_free */
    int64_t op_ns;             /* what the next op takes: as long as the slowest recent one. The caller keeps it, too */
    int32_t nplain;
    int32_t nbatched;
    int32_t nready;
    int32_t deadline_passed; /* the deadline set by bridge_set_deadline(); or a batch that is ready has the turn */
    int32_t waiting;         /* priorities that waited for this turn, as bits */
    int32_t sweep;           /* many batched ops that were taken earlier, and have not begun, are unwanted now */
    int32_t priority;        /* that has this turn: what is in plain has it, and so shall a batch; 0: any */
    int32_t kept;            /* by the caller: priorities of ready ops that it runs next, as bits */
    int64_t full; /* with sweep: ops of the model with this id, or of ALL_MODELS, are not to wait for others; 0: none */
} Taken;

/* Takes the ops for batches, up to TAKE_BATCHED, and others of one priority that take about CHUNK_NS, in the order in
 * which they came.
 * With wait set, waits for something to do. What C can do is done (bridge_run_ops) unless there is something for the
 * batcher, which comes first. With wait set, goes on until Python has something to do. worker
 * (0 .. threads_per_queue - 1) is for CPU accounting. */
void bridge_work(struct Queue *queue, int worker, Taken *taken, int wait);

/* Runs ops without Python, and finishes them, from the first on as far as C can (Runnable.direct). Returns how many:
 * the caller must not touch these again. In taken are the ops that became ready, and the one that failed. */
int bridge_run_ops(struct Queue *queue, Taken *taken, Op **ops, int n);

/* One worker of the queue returns from bridge_work at this deadline (ns of the monotonic clock; in the past: at
 * once; 0: no deadline). A queue has one deadline. */
void bridge_set_deadline(struct Queue *queue, int64_t deadline);

/* The batcher has batches of these priorities, as bits, that are ready, or would be if they had the turn. */
void bridge_set_batches(struct Queue *queue, int priorities);

/* Whether the op's client still waits for an answer. */
int bridge_is_awaited(const Op *op);

/* Drops the ops whose client has left or timed out, and those whose run has failed. Keeps the others in order and
 * returns their number. The caller must not touch the dropped ones again. */
int bridge_sweep_ops(Op **ops, int n);

/* The same. The ops that it keeps are running from now on: give each to bridge_finish_ops. */
int bridge_begin_ops(Op **ops, int n);

/* The worker goes on with this op, one after the first of those that it has begun together: INFO and crash reports name
 * it. bridge_begin_ops does it itself. */
void bridge_note_op(const Op *op);

/* Copies one output: data holds size bytes in C order; shape holds ndim dimensions; offsets, where each element of a
 * STRING starts, as a Tensor has them; else NULL. Returns 0, or -1 after failing the op with a message that says why
 * (index out of range, sizes that do not agree, no memory). */
int bridge_set_output(Op *op, int index, int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size,
                      const uint64_t *offsets);

/* Concatenates input `input` of n ops with one batch key into size bytes, the sum of their sizes. Not for STRING.
 * Returns 0, or -1 where the ops do not fit together: then they must run one by one. */
int bridge_gather(Op **ops, int n, int input, void *into, uint64_t size);

/* Splits one output of a batch among its n ops: each gets as many rows as it has itself. Not for STRING. Returns 0.
 * Where shape[0] is not the sum of the ops' rows, or ndim is 0, changes nothing and returns -1. An op fails where
 * bridge_set_output refuses its part. */
int bridge_scatter(Op **ops, int n, int output, int dtype, int ndim, const int64_t *shape, const void *data,
                   uint64_t size);

/* Runs n begun ops as one batch without Python. Returns 1 if they have outputs or errors now; -1 if it was ended for
 * the sake of one of them, so that Python must run the others one by one. Else Python must run them, unless *error is
 * set: the library's text, to be freed with bridge_free. */
int bridge_run_batch(Op **ops, int n, char **error);

/* How many ops of it have run. CONFIG RESETSTAT and AI.INFO RESETSTAT begin anew with 0. */
int64_t bridge_calls(const Runnable *runnable);

/* n ops ran as one batch, which took duration us. */
void bridge_batch_ran(Op **ops, int n, int64_t duration);

/* The op failed; the client gets "ERR " and this message (line breaks become spaces). The first message stays. */
void bridge_fail(Op *op, const char *message);

/* Takes n ops back, done or failed: the caller must not touch them again. Answers the clients whose run is complete.
 * Other ops may have got their last input from these. Those that need no batch are put into ready (capacity:
 * max_ready): the caller runs or pushes them. The rest go to their queues. Returns how many are in ready. */
int bridge_finish_ops(Op **ops, int n, Op **ready, int max_ready);

/* Sends ops that bridge_finish_ops gave to the queues of their devices. */
void bridge_push_ops(Op **ops, int n);

/* ---- runs without Python (direct/) -------------------------------------------------------------------------------
 *
 * A library that C can run has a file in direct/ and a struct here, which holds the functions that a run needs. The
 * struct is named after the backend. Its functions have the library's names and declarations, but pointers to the
 * library's structs are void *. Python fills the struct with the addresses that the backend found. It refuses a backend
 * that declares a function differently (redisai/direct.py). */

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
    void *(*CreateRunOptions)(void **options);
    void (*ReleaseRunOptions)(void *options);
    void *(*RunOptionsSetTerminate)(void *options);
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

/* The functions of backends/redisai_torch/runner.cpp, which is compiled with this file. */
typedef struct TorchTensor {
    void *data;
    const int64_t *shape;
    int64_t ndim;
    int64_t type;
    uint64_t size;
} TorchTensor;

/* What a script that C++ runs may ask for. The op is the script's. */
typedef struct TorchHost {
    Reply *(*call)(Op *op, const Bytes *words, int count);
    void (*free_reply)(Reply *reply);
    /* Runs the model at a key in C, in this thread. NULL: Python must; *failure is the library's text, to be freed,
     * where the model has run and failed, else NULL. */
    struct Run *(*run_model)(Op *op, Bytes key, const TorchTensor *inputs, int ninputs, int noutputs, char **failure);
    void (*get_output)(const struct Run *run, int index, TorchTensor *output);
    void (*free_run)(struct Run *run);
    void (*free_text)(char *text);
} TorchHost;

typedef struct TorchCall {
    const char *function;
    const TorchTensor *inputs;
    const Bytes *keys;
    const Bytes *args;
    int32_t ninputs;
    int32_t nkeys;
    int32_t nargs;
    Op *op;
    const TorchHost *host;
} TorchCall;

typedef struct TorchApi {
    int (*redisai_torch_run)(const void *session, const TorchCall *call, void **outputs);
    int (*redisai_torch_count)(const void *outputs);
    void (*redisai_torch_get)(const void *outputs, int index, TorchTensor *output);
    void (*redisai_torch_free)(void *outputs, int are_used);
} TorchApi;

#define ANY_COUNT -1
#define ANY_NUMBERS -1
#define ANY_ROWS -1

#define DIRECT_MAX 8 /* inputs, and outputs; models with more are run by Python */

/* A compiled model or script that takes and gives numbers only. Python keeps it alive, with all that it points to,
 * until the JOB_DROP of the runnable. */
typedef struct Direct {
    const void *api; /* the functions of the backend's library: OnnxApi, TfApi, TorchApi */
    void *session;
    void *memory;        /* ONNX: what describes the CPU's memory */
    const void *inputs;  /* ONNX: names, const char *[]; TF: TF_Output[] */
    const void *outputs; /* the same */
    int32_t backend;     /* BACKEND_... */
    int32_t ninputs;     /* or ANY_COUNT, up to DIRECT_MAX; noutputs likewise */
    int32_t noutputs;
    int32_t types[DIRECT_MAX]; /* of each input: number of its Dtype, or ANY_NUMBERS */
    int64_t rows;              /* C runs only ops with so many rows, or ANY_ROWS; Python may change it at any time */
    int64_t duration;          /* atomic: ns of the latest run, for C */
} Direct;

/* ---- jobs of the loader ------------------------------------------------------------------------------------------ */

#define JOB_LOAD 0   /* compile job.runnable, unless it is compiled already */
#define JOB_DROP 1   /* forget the session of job.runnable; finishing the job frees it */
#define JOB_IMPORT 2 /* import backend job.backend from job.path; no path: from its default place, if it has to be */
#define JOB_LIMITS 3 /* limits of job.runnable, a model, have changed */

typedef struct Job {
    int32_t kind;
    int32_t backend;
    char *path; /* JOB_IMPORT: absolute, or below the backends path */
    Runnable *runnable;
    int32_t is_store; /* JOB_LOAD: a client stores it, so it fails where a warm-up fails */
} Job;

/* Waits for the next job. Jobs come in the order in which they were posted, except that jobs with a waiting client go
 * first. */
Job *bridge_next_job(void);

/* JOB_LOAD: the runnable is compiled. Sets what a model declares, which is copied (NULL for scripts), the queue of its
 * device, and how C runs it (NULL: Python does). From now on its ops go there directly. */
void bridge_ready(Runnable *runnable, struct Queue *queue, const Declared *declared, struct Direct *direct);

/* Finishes a job, with error NULL where it succeeded. The caller must not touch it again. */
void bridge_finish_job(Job *job, const char *error);

/* ---- queues and surroundings ------------------------------------------------------------------------------------- */

/* The name of the queue for a device as a client gave it: in upper case; of "CPU:abc" and the like, CPU or GPU. */
#define QUEUE_NAME 16
void bridge_queue_name(const char *device, char name[QUEUE_NAME]);

/* The queue of a device ("CPU", "CPU:1", "GPU:0": upper case), made on first use; the caller starts its
 * threads_per_queue workers. NULL when there are too many queues already (64, of which two are kept for
 * "CPU" and "GPU"). Loader only. */
struct Queue *bridge_open_queue(const char *device);

typedef struct Option {
    const char *name; /* lower case */
    int64_t value;
} Option;

/* The load-time option of this index, from 0; NULL: no more. Python may keep the value: it has no use for
 * the options that change later. */
const Option *bridge_option(int index);

/* A copy of the backends path, to be freed with bridge_free. */
char *bridge_backends_path(void);
void bridge_free(char *text);

/* The path, absolute or below the backends path, of the backend that a load-time option names; or NULL. */
const char *bridge_backend_to_load(int backend);

/* The libraries of custom operators for ONNX models, separated by colons; or NULL. */
const char *bridge_onnx_custom_ops(void);

/* A backend was imported: its version for INFO MODULES. */
void bridge_backend_loaded(int backend, const char *version, const char *advice); /* advice: for INFO, may be empty */

/* Figures for INFO MODULES: bytes of the models that ONNX Runtime holds, runs started, the maximum of runs at once. */
void bridge_onnx_figures(int64_t memory, int64_t accesses);

/* level: "debug", "verbose", "notice", "warning". */
void bridge_log(const char *level, const char *message);

/* In an engine process (isolation/), before all else: from now on this process belongs to the server that has started
 * it, and has its options. No thread runs yet. */
void bridge_enter_process(void);

/* Then: from now on this process serves the server, or ends. Starts the control thread. */
void bridge_serve(void);

/* The engine is up (error NULL) or could not start; called once, before the first job. */
void bridge_engine_started(const char *error);
