/* inside_jobs.c - the engine process: its start, its messages, its models and scripts (inside.h, bridge.h).
 *
 * The control thread reads the socket: it must never wait for the loader or a worker, or the server could not send.
 * Python's main thread enters at the start, and is the loader; it and the workers write to the socket.
 * Locks, all leaves: sending, runnables.mutex, waiting.mutex. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/divisions.h"
#include "engine/interpreter.h"
#include "engine/jobs.h"
#include "engine/options.h"
#include "engine/running.h"
#include "isolation/inside.h"
#include "run/script_calls.h"
#include "values/backend.h"
#include "values/model.h"
#include "values/names.h"
#include "values/script.h"

static char device[16];

/* ---- messages ------------------------------------------------------------------------------------------------------
 */

static pthread_mutex_t sending = PTHREAD_MUTEX_INITIALIZER;

static void send_all(const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(FD_SOCKET, data, size, MSG_NOSIGNAL);
        if (sent == -1 && errno == EINTR) continue;
        if (sent == -1) _exit(0); /* the server has gone */
        data += sent;
        size -= sent;
    }
}

/* Sends the message and frees what was written. */
static void send_message(int kind, Writer *writer) {
    int64_t header[] = {(int64_t)writer->size, kind};
    pthread_mutex_lock(&sending);
    send_all((const char *)header, sizeof(header));
    send_all(writer->data, writer->size);
    pthread_mutex_unlock(&sending);
    RedisModule_Free(writer->data);
}

static void receive_all(char *data, size_t size) {
    while (size) {
        ssize_t received = recv(FD_SOCKET, data, size, 0);
        if (received == -1 && errno == EINTR) continue;
        if (received <= 0) _exit(0); /* the server has gone */
        data += received;
        size -= received;
    }
}

/* The payload is the caller's to free. */
static int receive_message(char **payload, Reader *reader) {
    int64_t header[2];
    receive_all((char *)header, sizeof(header));
    *payload = RedisModule_Alloc(header[0] ? header[0] : 1);
    receive_all(*payload, header[0]);
    *reader = (Reader){.at = *payload, .end = *payload + header[0]};
    return (int)header[1];
}

static void send_log(const char *level, const char *text) {
    Writer writer = {0};
    write_text(&writer, level);
    write_text(&writer, text);
    send_message(MESSAGE_LOG, &writer);
}

/* ---- models and scripts ------------------------------------------------------------------------------------------ */

#define BUCKETS 1024

typedef struct Known {
    Runnable *runnable; /* a reference */
    struct Known *next;
} Known;

static struct {
    pthread_mutex_t mutex;
    Known *buckets[BUCKETS];
} runnables = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static Known **find(uint64_t id) {
    Known **at = &runnables.buckets[id % BUCKETS];
    while (*at && (*at)->runnable->id != id) at = &(*at)->next;
    return at;
}

Runnable *inside_runnable(uint64_t id) {
    pthread_mutex_lock(&runnables.mutex);
    Known *known = *find(id);
    Runnable *runnable = known ? runnable_ref(known->runnable) : NULL;
    pthread_mutex_unlock(&runnables.mutex);
    return runnable;
}

static void add_runnable(Runnable *runnable) {
    Known *known = RedisModule_Alloc(sizeof(*known));
    pthread_mutex_lock(&runnables.mutex);
    Known **bucket = &runnables.buckets[runnable->id % BUCKETS];
    *known = (Known){.runnable = runnable_ref(runnable), .next = *bucket};
    *bucket = known;
    pthread_mutex_unlock(&runnables.mutex);
}

static void drop(uint64_t id) {
    pthread_mutex_lock(&runnables.mutex);
    Known **at = find(id), *known = *at;
    if (known) *at = known->next;
    pthread_mutex_unlock(&runnables.mutex);
    if (known == NULL) return;
    runnable_unref(known->runnable);
    RedisModule_Free(known);
}

static void read_limits(Reader *reader, Model *model) {
    ModelLimits limits;
    memcpy(&limits, read_bytes(reader).data, sizeof(limits));
    model_set_limits(model, &limits);
}

static Runnable *read_model(Reader *reader, int backend) {
    Model *model = model_new(backend);
    read_limits(reader, model);
    read_names(reader, &model->inputs);
    read_names(reader, &model->outputs);
    read_names(reader, &model->warmups);
    uint64_t size = (uint64_t)(reader->end - reader->at); /* the blob is the rest */
    char *blob = RedisModule_Alloc(size + 1);
    memcpy(blob, reader->at, size);
    model_take_piece(model, blob, size);
    return &model->base;
}

static Runnable *read_script(Reader *reader) {
    Script *script = script_new();
    read_names(reader, &script->entry_points);
    script->source = read_text(reader);
    return &script->base;
}

static Runnable *read_runnable(Reader *reader) {
    uint64_t id = (uint64_t)read_number(reader);
    int kind = (int)read_number(reader), backend = (int)read_number(reader);
    char *on = read_text(reader);
    Bytes tag = read_bytes(reader);
    char *tag_copy = RedisModule_Alloc(tag.size + 1);
    memcpy(tag_copy, tag.data, tag.size);
    tag_copy[tag.size] = '\0';
    Bytes label = read_bytes(reader);
    Runnable *runnable = kind == KIND_MODEL ? read_model(reader, backend) : read_script(reader);
    runnable->id = id;
    runnable->device = on;
    runnable->tag = tag_copy;
    runnable->tag_size = tag.size;
    if (label.size == RUNNABLE_LABEL) memcpy(runnable->state->label, label.data, RUNNABLE_LABEL);
    return runnable;
}

/* What the session does not need any more. The server has it. */
static void forget_blob(Model *model) {
    for (int64_t i = 0; i < model->npieces; i++) RedisModule_Free((char *)model->pieces[i].data);
    model->npieces = 0;
}

/* Answers LOAD and IMPORT. On the loader's thread. */
static void job_done(LoaderJob *job) {
    Runnable *runnable = job->job.runnable;
    int is_model = runnable && runnable->kind == KIND_MODEL;
    static Declared none;
    Writer writer = {0};
    write_number(&writer, job->error != NULL);
    write_text(&writer, job->error);
    Declared *declared = is_model ? &((Model *)runnable)->declared : &none;
    for (int i = 0; i < DECLARED_LISTS; i++) write_names(&writer, declared_list(declared, i));
    write_number(&writer, declared->least_inputs);
    write_number(&writer, declared->most_inputs);
    write_number(&writer, declared->noutputs);
    write_number(&writer, declared->is_stateful);
    for (int i = 0; backend_row(i); i++) {
        write_text(&writer, backend_version(i));
        write_text(&writer, backend_advice(i));
    }
    if (is_model) forget_blob((Model *)runnable);
    if (runnable && job->error) drop(runnable->id); /* the server sends it again, should a later run need it */
    job_free(job);
    send_message(MESSAGE_DONE, &writer);
}

static void take_path(Reader *reader) {
    char *path = read_text(reader);
    RedisModuleString *backends = RedisModule_CreateString(NULL, path, strlen(path));
    options_set_backends_path(backends);
    RedisModule_FreeString(NULL, backends);
    RedisModule_Free(path);
}

static void load(Reader *reader) {
    take_path(reader);
    int is_store = (int)read_number(reader);
    Runnable *runnable = read_runnable(reader);
    add_runnable(runnable);
    LoaderJob *job = job_new(JOB_LOAD, runnable);
    job->job.is_store = is_store;
    job->finished = job_done;
    job_post(job);
}

static void change_limits(Reader *reader) {
    Runnable *runnable = inside_runnable((uint64_t)read_number(reader));
    if (runnable == NULL) return;
    read_limits(reader, (Model *)runnable);
    job_post(job_new(JOB_LIMITS, runnable));
}

static void import(Reader *reader) {
    take_path(reader);
    LoaderJob *job = job_new(JOB_IMPORT, NULL);
    job->job.backend = (int32_t)read_number(reader);
    job->job.path = read_text(reader);
    job->finished = job_done;
    job_post(job);
}

/* ---- calls of scripts -------------------------------------------------------------------------------------------- */

/* On the stack of the worker that waits for it. */
typedef struct Waiting {
    int64_t number;
    Reply *reply; /* NULL: not yet */
    struct Waiting *next;
} Waiting;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t replied;
    Waiting *first;
    int64_t last_number;
} waiting = {.mutex = PTHREAD_MUTEX_INITIALIZER, .replied = PTHREAD_COND_INITIALIZER};

static void begin_call(Writer *writer, Waiting *call, const Op *op) {
    pthread_mutex_lock(&waiting.mutex);
    call->number = ++waiting.last_number;
    call->next = waiting.first;
    waiting.first = call;
    pthread_mutex_unlock(&waiting.mutex);
    write_number(writer, call->number);
    write_number(writer, (int64_t)inside_slot(op));
    write_number(writer, op->state->ticket);
}

static Reply *ask(int kind, Writer *writer, Waiting *call) {
    send_message(kind, writer);
    pthread_mutex_lock(&waiting.mutex);
    while (call->reply == NULL) pthread_cond_wait(&waiting.replied, &waiting.mutex);
    for (Waiting **at = &waiting.first;; at = &(*at)->next) {
        if (*at != call) continue;
        *at = call->next;
        break;
    }
    pthread_mutex_unlock(&waiting.mutex);
    return call->reply;
}

static Reply *call_elsewhere(Op *op, const Bytes *words, int count) {
    Writer writer = {0};
    Waiting call = {0};
    begin_call(&writer, &call, op);
    write_number(&writer, count);
    for (int i = 0; i < count; i++) write_bytes(&writer, words[i].data, words[i].size);
    return ask(MESSAGE_CALL, &writer, &call);
}

/* The last number of HOLD is also that of its RELEASE. A worker holds one model at a time. */
static __thread int64_t held;

static Model *hold_elsewhere(Op *op, Bytes key, char **error) {
    Writer writer = {0};
    Waiting call = {0};
    begin_call(&writer, &call, op);
    write_bytes(&writer, key.data, key.size);
    Reply *reply = ask(MESSAGE_HOLD, &writer, &call);
    Model *model = reply->type == REPLY_INTEGER ? (Model *)inside_runnable((uint64_t)reply->integer) : NULL;
    held = call.number;
    *error = model ? NULL : RedisModule_Strdup(reply->text ? reply->text : "ERR the model is not loaded");
    bridge_free_reply(reply);
    return model;
}

static void release_elsewhere(Model *model, int64_t duration, int64_t samples, int failed, int is_direct) {
    Writer writer = {0};
    write_number(&writer, held);
    write_number(&writer, duration);
    write_number(&writer, samples);
    write_number(&writer, failed);
    write_number(&writer, is_direct);
    send_message(MESSAGE_RELEASE, &writer);
}

static const CallsElsewhere calls = {call_elsewhere, hold_elsewhere, release_elsewhere};

static void read_reply(Reader *reader, Reply *reply) {
    reply->type = (int32_t)read_number(reader);
    reply->integer = read_number(reader);
    reply->size = read_bytes(&(Reader){.at = reader->at, .end = reader->end}).size;
    reply->text = read_text(reader);
    reply->count = read_number(reader);
    reply->items = reply->count ? RedisModule_Calloc(reply->count, sizeof(Reply)) : NULL;
    for (int64_t i = 0; i < reply->count; i++) read_reply(reader, &reply->items[i]);
}

static void take_reply(Reader *reader) {
    int64_t number = read_number(reader);
    Reply *reply = RedisModule_Calloc(1, sizeof(*reply));
    read_reply(reader, reply);
    pthread_mutex_lock(&waiting.mutex);
    for (Waiting *call = waiting.first; call; call = call->next) {
        if (call->number == number) call->reply = reply;
    }
    pthread_cond_broadcast(&waiting.replied);
    pthread_mutex_unlock(&waiting.mutex);
}

/* ---- the control thread ------------------------------------------------------------------------------------------ */

static void *control(void *unused) {
    Writer ready = {0};
    write_text(&ready, engine_wait_started());
    send_message(MESSAGE_READY, &ready);
    for (;;) {
        char *payload;
        Reader reader;
        switch (receive_message(&payload, &reader)) {
        case MESSAGE_LOAD: load(&reader); break;
        case MESSAGE_IMPORT: import(&reader); break;
        case MESSAGE_LIMITS: change_limits(&reader); break;
        case MESSAGE_DROP: drop((uint64_t)read_number(&reader)); break;
        case MESSAGE_REPLY: take_reply(&reader); break;
        }
        RedisModule_Free(payload);
    }
    return NULL;
}

/* ---- the start --------------------------------------------------------------------------------------------------- */

static void tell_server(const void *data, size_t size) {
    ssize_t ignored = write(FD_STATUS, data, size);
    (void)ignored;
}

/* The server's own wait() may take the status of its child away. So this process has one of its own, the engine, and
 * tells by the pipe which it is and how it ended. */
static void wait_for_engine(pid_t engine) {
    int status = 0;
    tell_server(&engine, sizeof(engine));
    close(FD_SOCKET);
    close(FD_MEMORY);
    close(FD_EVENT);
    do {
        if (waitpid(engine, &status, WUNTRACED) == -1 && errno != EINTR) break;
        if (WIFSTOPPED(status)) kill(engine, SIGKILL);
    } while (!WIFEXITED(status) && !WIFSIGNALED(status));
    tell_server(&status, sizeof(status));
    _exit(0);
}

static void split(void) {
    pid_t parent = getpid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pid_t engine = fork();
    if (engine == -1) _exit(1);
    if (engine) wait_for_engine(engine);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    close(FD_STATUS);
}

static Shared *shared;

/* Tells the server whose run has raised the signal, then lets it end the process. */
static void on_crash(int number) {
    shared->dying = running_id();
    signal(number, SIG_DFL);
    raise(number);
}

static void handle_crashes(void) {
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_NODEFER};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) sigaction(numbers[i], &action, NULL);
    divisions_init(NULL);
}

/* Beyond it allocations fail. What is shared with the server does not count, so it has the same limit of its own. */
static void limit_memory(void) {
    rlim_t limit = (rlim_t)isolation_memory_limit() * MB;
    if (limit == 0) return;
    struct rlimit data = {.rlim_cur = limit, .rlim_max = limit};
    setrlimit(RLIMIT_DATA, &data);
    inside_limit_stretch(limit);
}

static void read_start(Reader *reader) {
    for (int i = 0; option_row(i); i++) option_row(i)->python.value = read_number(reader);
    take_path(reader);
    for (int i = 0; backend_row(i); i++) {
        char *to_load = read_text(reader);
        options_set_backend_to_load(i, to_load);
        RedisModule_Free(to_load);
    }
    char *custom_ops = read_text(reader);
    options_set_onnx_custom_ops(custom_ops);
    RedisModule_Free(custom_ops);
    Bytes name = read_bytes(reader);
    memcpy(device, name.data, name.size < sizeof(device) ? name.size : sizeof(device) - 1);
}

void bridge_enter_process(void) {
    split();
    shared = mmap(NULL, SHARED_TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, FD_MEMORY, 0);
    if (shared == MAP_FAILED) _exit(1);
    inside_bind_api(shared, send_log, inside_finish);
    inside_ops_init(shared, FD_EVENT);
    running_set_place(shared->running, RUNNING_RECORDS);
    backend_set_figures_place(&shared->figures);
    calls_set_elsewhere(&calls);
    jobs_init();
    char *payload;
    Reader reader;
    receive_message(&payload, &reader);
    read_start(&reader);
    RedisModule_Free(payload);
    limit_memory();
    handle_crashes();
    queue_set_source(bridge_open_queue(device), &inside_source);
}

void bridge_serve(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, control, NULL)) _exit(1);
}
