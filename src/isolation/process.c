/* process.c - engine processes: their start, their end, their messages (process.h).
 *
 * Main thread: the table of processes, jobs as they are posted, the event that tells of results. The carrier of each
 * process: everything else. Locks: process.mutex; table.mutex, which is held while a process is added. Both are leaves. */
#include "isolation/process.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/interpreter.h"
#include "engine/options.h"
#include "redis/clock.h"
#include "run/run.h"
#include "run/script_calls.h"
#include "values/backend.h"
#include "values/model.h"
#include "values/script.h"

#define MAX_PROCESSES 64
#define MAX_MESSAGE (1ULL << 30) /* of those that a process sends: a command of a script */
#define STALL_MS 10000           /* a process that takes no bytes for so long is ended */
#define TICK_MS 100              /* how often the carrier looks at ops that run */

static char python[PATH_MAX];
static int event_fd; /* all processes tell the event loop by this one */

static struct {
    pthread_mutex_t mutex;
    int count; /* atomic */
    Process *processes[MAX_PROCESSES];
} table = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* Of a script, while the main thread performs it or the script holds its model. */
typedef struct RemoteCall {
    ScriptCall call; /* first */
    Process *process;
    int64_t number;
    char *payload; /* what words and key point into */
    struct RemoteCall *next;
} RemoteCall;

void process_wake_carrier(Process *process) {
    uint64_t one = 1;
    ssize_t ignored = write(process->wake_fd, &one, sizeof(one));
    (void)ignored;
}

/* ---- messages --------------------------------------------------------------------------------------------------------- */

static void end_process(Process *process, const char *why) {
    if (process->death[0] == '\0') snprintf(process->death, sizeof(process->death), "%s", why);
    syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
}

/* Returns -1 once the process is no more, or takes nothing. */
static int send_all(Process *process, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(process->socket, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent == -1 && errno == EAGAIN) {
            struct pollfd writable = {.fd = process->socket, .events = POLLOUT};
            if (poll(&writable, 1, STALL_MS) == 1) continue;
            end_process(process, "it takes no messages");
            return -1;
        }
        if (sent == -1 && errno != EINTR) return -1;
        if (sent > 0) {
            data += sent;
            size -= sent;
        }
    }
    return 0;
}

/* Sends what was written, then `more` bytes, as one message. Frees what was written. */
static int send_message(Process *process, int kind, Writer *writer, const Model *blob) {
    int64_t header[] = {(int64_t)(writer->size + (blob ? blob->blob_size : 0)), kind};
    int failed = send_all(process, (const char *)header, sizeof(header)) || send_all(process, writer->data, writer->size);
    for (int64_t i = 0; blob && i < blob->npieces && !failed; i++) {
        failed = send_all(process, blob->pieces[i].data, blob->pieces[i].size);
    }
    RedisModule_Free(writer->data);
    return failed;
}

static int receive_all(Process *process, char *data, size_t size) {
    while (size) {
        struct pollfd readable = {.fd = process->socket, .events = POLLIN};
        if (poll(&readable, 1, STALL_MS) == 0) {
            end_process(process, "it sends a message that has no end");
            return -1;
        }
        ssize_t received = recv(process->socket, data, size, 0);
        if (received == -1 && errno == EINTR) continue;
        if (received <= 0) return -1;
        data += received;
        size -= received;
    }
    return 0;
}

/* The payload is the caller's to free. Returns the kind, or -1: the process is no more. */
static int receive_message(Process *process, char **payload, Reader *reader) {
    int64_t header[2];
    *payload = NULL;
    if (receive_all(process, (char *)header, sizeof(header))) return -1;
    if (header[0] < 0 || (uint64_t)header[0] > MAX_MESSAGE) {
        end_process(process, "it sends a message that is too large");
        return -1;
    }
    /* It grows with what comes, not with what is promised. */
    for (int64_t done = 0; done < header[0];) {
        int64_t part = header[0] - done < 1 << 20 ? header[0] - done : 1 << 20;
        *payload = RedisModule_Realloc(*payload, done + part);
        if (receive_all(process, *payload + done, part)) return -1;
        done += part;
    }
    *reader = (Reader){.at = *payload, .end = *payload + header[0]};
    return (int)header[1];
}

/* ---- jobs --------------------------------------------------------------------------------------------------------------- */

static int is_own(const Process *process, const Runnable *runnable) {
    return strcasecmp(runnable->device, process->device) == 0;
}

static void finish_job(Process *process, const char *error) {
    LoaderJob *job = process->job;
    process->job = NULL;
    bridge_finish_job(&job->job, error);
}

static int send_load(Process *process, const Runnable *runnable) {
    Writer writer = {0};
    write_number(&writer, (int64_t)runnable->id);
    write_number(&writer, runnable->kind);
    write_number(&writer, runnable->backend);
    write_text(&writer, runnable->device);
    write_bytes(&writer, runnable->tag, runnable->tag_size);
    if (runnable->kind == KIND_MODEL) {
        const Model *model = (const Model *)runnable;
        write_number(&writer, model->batchsize);
        write_number(&writer, model->minbatchsize);
        write_number(&writer, model->minbatchtimeout);
        write_names(&writer, &model->inputs);
        write_names(&writer, &model->outputs);
        return send_message(process, MESSAGE_LOAD, &writer, model);
    }
    const Script *script = (const Script *)runnable;
    write_names(&writer, &script->entry_points);
    write_text(&writer, script->source);
    return send_message(process, MESSAGE_LOAD, &writer, NULL);
}

static void send_import(Process *process, const Job *job) {
    Writer writer = {0};
    write_number(&writer, job->backend);
    write_text(&writer, job->path);
    send_message(process, MESSAGE_IMPORT, &writer, NULL);
}

/* Gives the process its next job, if it has none. */
static void send_job(Process *process) {
    while (process->job == NULL && (process->job = job_queue_take(&process->jobs))) {
        const Job *job = &process->job->job;
        if (job->kind == JOB_IMPORT) {
            send_import(process, job);
        } else if (carrier_has_compiled(process, job->runnable->id)) {
            finish_job(process, NULL);
        } else {
            send_load(process, job->runnable);
        }
    }
}

/* How the process has answered its job. */
static void job_done(Process *process, Reader *reader) {
    if (process->job == NULL) return;
    int failed = read_number(reader) != 0;
    char *error = read_text(reader);
    Names inputs = {0}, outputs = {0};
    read_names(reader, &inputs);
    read_names(reader, &outputs);
    for (int i = 0; backend_row(i); i++) {
        char *version = read_text(reader);
        if (*version) bridge_backend_loaded(i, version);
        RedisModule_Free(version);
    }
    Runnable *runnable = process->job->job.runnable;
    if (runnable && !failed && !reader->failed) {
        carrier_note_compiled(process, runnable->id, 1);
        if (is_own(process, runnable)) {
            bridge_ready(runnable, process->queue, (int)inputs.count, (const char **)inputs.names, (int)outputs.count,
                         (const char **)outputs.names);
        }
    }
    for (int64_t i = 0; i < inputs.count; i++) RedisModule_Free(inputs.names[i]);
    for (int64_t i = 0; i < outputs.count; i++) RedisModule_Free(outputs.names[i]);
    RedisModule_Free(inputs.names);
    RedisModule_Free(outputs.names);
    finish_job(process, failed ? error : NULL);
    RedisModule_Free(error);
}

/* ---- calls of scripts ----------------------------------------------------------------------------------------------------- */

static void call_performed(ScriptCall *call) {
    RemoteCall *remote = (RemoteCall *)call;
    Process *process = remote->process;
    pthread_mutex_lock(&process->mutex);
    remote->next = process->answered;
    process->answered = remote;
    pthread_mutex_unlock(&process->mutex);
    process_wake_carrier(process);
}

/* Takes the payload over. */
static void begin_call(Process *process, int kind, Reader *reader, char *payload) {
    RemoteCall *remote = RedisModule_Calloc(1, sizeof(*remote));
    remote->process = process;
    remote->payload = payload;
    remote->number = read_number(reader);
    uint64_t slot = (uint64_t)read_number(reader);
    Op *op = carrier_find_op(process, slot, (int32_t)read_number(reader));
    remote->call.op = op;
    remote->call.done = call_performed;
    if (kind == MESSAGE_CALL) {
        int64_t count = read_number(reader);
        if (count < 1 || count > (reader->end - reader->at) / 8) reader->failed = 1;
        Bytes *words = reader->failed ? NULL : RedisModule_Alloc(count * sizeof(*words));
        for (int64_t i = 0; words && i < count; i++) words[i] = read_bytes(reader);
        remote->call.words = words;
        remote->call.count = (int)count;
    } else {
        remote->call.key = read_bytes(reader);
    }
    if (op && !reader->failed) {
        calls_post(&remote->call);
        return;
    }
    end_process(process, "it sends a call that makes no sense");
    if (op) run_unref(op->run);
    RedisModule_Free((Bytes *)remote->call.words);
    RedisModule_Free(payload);
    RedisModule_Free(remote);
}

static void write_reply(Writer *writer, const Reply *reply) {
    write_number(writer, reply->type);
    write_number(writer, reply->integer);
    write_bytes(writer, reply->text, reply->size);
    write_number(writer, reply->count);
    for (int64_t i = 0; i < reply->count; i++) write_reply(writer, &reply->items[i]);
}

static void send_reply(Process *process, int64_t number, const Reply *reply) {
    Writer writer = {0};
    write_number(&writer, number);
    write_reply(&writer, reply);
    send_message(process, MESSAGE_REPLY, &writer, NULL);
}

static void send_error(Process *process, int64_t number, const char *error) {
    send_reply(process, number, &(Reply){.type = REPLY_ERROR, .text = (char *)error, .size = strlen(error)});
}

/* The model that a script wants to run has been compiled in this process, or has not. */
static void model_loaded(LoaderJob *job) {
    RemoteCall *remote = job->data;
    Process *process = remote->process;
    if (job->error) {
        send_error(process, remote->number, job->error);
        runnable_unref(&remote->call.model->base);
        RedisModule_Free(remote);
    } else {
        send_reply(process, remote->number, &(Reply){.type = REPLY_INTEGER, .integer = remote->call.model->base.id});
        remote->next = process->held;
        process->held = remote;
    }
    job_free(job);
}

static void hold(Process *process, RemoteCall *remote) {
    LoaderJob *job = job_new(JOB_LOAD, runnable_ref(&remote->call.model->base));
    job->data = remote;
    job->finished = model_loaded;
    job->is_urgent = 1;
    job_queue_add(&process->jobs, job);
}

static void answer(Process *process, RemoteCall *remote) {
    ScriptCall *call = &remote->call;
    run_unref(call->op->run);
    RedisModule_Free((Bytes *)call->words);
    RedisModule_Free(remote->payload);
    if (call->model) {
        hold(process, remote);
        return;
    }
    if (call->error) {
        send_error(process, remote->number, call->error);
    } else {
        send_reply(process, remote->number, call->reply);
        bridge_free_reply(call->reply);
    }
    RedisModule_Free(remote);
}

static void answer_calls(Process *process) {
    pthread_mutex_lock(&process->mutex);
    RemoteCall *answered = process->answered;
    process->answered = NULL;
    pthread_mutex_unlock(&process->mutex);
    for (RemoteCall *next; answered; answered = next) {
        next = answered->next;
        answer(process, answered);
    }
}

static void release(Process *process, int64_t number, Reader *reader) {
    for (RemoteCall **at = &process->held; *at; at = &(*at)->next) {
        RemoteCall *remote = *at;
        if (remote->number != number) continue;
        *at = remote->next;
        int64_t duration = read_number(reader), samples = read_number(reader);
        bridge_release_model(remote->call.model, duration, samples, read_number(reader) != 0);
        RedisModule_Free(remote);
        return;
    }
}

/* ---- start and end -------------------------------------------------------------------------------------------------------- */

/* New memory at the process's address. Returns the descriptor. */
static int make_memory(Process *process) {
    int fd = memfd_create("redisai", MFD_CLOEXEC);
    if (fd == -1 || ftruncate(fd, SHARED_TOTAL) == -1) return -1;
    pthread_mutex_lock(&process->mutex);
    void *at = mmap(process->shared, SHARED_TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (at != MAP_FAILED) {
        madvise(at, SHARED_TOTAL, MADV_DONTFORK);
        madvise(at, SHARED_TOTAL, MADV_DONTDUMP);
        process->submitted = process->completed = 0;
        arena_reset(&process->arena);
        process->shared->server_sleeps = 1;
    }
    pthread_mutex_unlock(&process->mutex);
    return at == MAP_FAILED ? -1 : fd;
}

static int spawn(Process *process, int socket, int status) {
    char script[PATH_MAX], module[PATH_MAX];
    snprintf(script, sizeof(script), "%s/redisai/process.py", options_module_folder());
    snprintf(module, sizeof(module), "%s/redisai.so", options_module_folder());
    char *arguments[] = {python, "-I", script, module, process->device, NULL};
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    /* Out of the way of the descriptors that they become. */
    int from[] = {socket, process->memory_fd, event_fd, status}, high[4];
    for (int i = 0; i < 4; i++) {
        high[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 10);
        posix_spawn_file_actions_adddup2(&files, high[i], FD_SOCKET + i);
    }
    posix_spawn_file_actions_addclosefrom_np(&files, FD_STATUS + 1);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0); /* the terminal's signals are the server's */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    int error = posix_spawn(&process->pid, python, &files, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    for (int i = 0; i < 4; i++) close(high[i]);
    return error;
}

static void send_start(Process *process) {
    Writer writer = {0};
    for (int i = 0; option_row(i); i++) write_number(&writer, option_row(i)->python.value);
    char *path = bridge_backends_path();
    write_text(&writer, path);
    bridge_free(path);
    write_text(&writer, process->device);
    send_message(process, MESSAGE_START, &writer, NULL);
}

static void close_all(Process *process) {
    int *fds[] = {&process->socket, &process->status_fd, &process->memory_fd, &process->pidfd};
    for (int i = 0; i < 4; i++) {
        if (*fds[i] != -1) close(*fds[i]);
        *fds[i] = -1;
    }
}

static void start(Process *process) {
    int sockets[2] = {-1, -1}, status[2] = {-1, -1};
    process->death[0] = '\0';
    process->state = PROCESS_STARTING;
    process->started = monotonic_ns();
    process->memory_fd = make_memory(process);
    int error = process->memory_fd == -1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) ||
                        pipe2(status, O_CLOEXEC)
                    ? errno
                    : 0;
    if (!error) error = spawn(process, sockets[1], status[1]);
    if (sockets[1] != -1) close(sockets[1]);
    if (status[1] != -1) close(status[1]);
    process->socket = sockets[0];
    process->status_fd = status[0];
    if (error) {
        snprintf(process->death, sizeof(process->death), "%.150s cannot be started: %.80s", python, strerror(error));
        return;
    }
    process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    send_start(process);
}

static void describe_death(Process *process, char *text, size_t size) {
    int status = 0;
    ssize_t got = 0;
    /* Its parent tells soon after. */
    struct pollfd told = {.fd = process->status_fd, .events = POLLIN};
    if (process->death[0] == '\0' && poll(&told, 1, 1000) == 1) got = read(process->status_fd, &status, sizeof(status));
    if (process->death[0]) {
        snprintf(text, size, "%s", process->death);
    } else if (got == sizeof(status) && WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(text, size, "SIG%s", name ? name : "?");
    } else if (got == sizeof(status) && WIFEXITED(status)) {
        snprintf(text, size, "exit status %d", WEXITSTATUS(status));
    } else {
        snprintf(text, size, "unknown reason");
    }
}

static void bury(Process *process) {
    char reason[300], error[400];
    pthread_mutex_lock(&process->mutex);
    int was_up = process->state == PROCESS_UP;
    process->state = PROCESS_DOWN;
    pthread_mutex_unlock(&process->mutex);
    describe_death(process, reason, sizeof(reason));
    if (process->pidfd != -1) syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
    waitpid(process->pid, NULL, 0); /* unless Redis was faster */
    process->pid = 0;
    snprintf(error, sizeof(error), "the process that ran it ended: %s", reason);
    RedisModule_Log(log_context, "warning", "the engine process of %s ended: %s", process->device, reason);
    close_all(process);
    if (process->job) finish_job(process, error);
    carrier_abandon(process, error);
    for (RemoteCall *held = process->held, *next; held; held = next) {
        next = held->next;
        bridge_release_model(held->call.model, -1, 0, 1);
        RedisModule_Free(held);
    }
    process->held = NULL;
    process->failures = was_up ? 0 : process->failures + 1;
}

static void ready(Process *process, Reader *reader) {
    char *error = read_text(reader);
    if (*error) {
        end_process(process, error);
    } else if (process->state == PROCESS_STARTING) {
        pthread_mutex_lock(&process->mutex);
        process->state = PROCESS_UP;
        pthread_mutex_unlock(&process->mutex);
    }
    RedisModule_Free(error);
}

/* ---- the carrier ------------------------------------------------------------------------------------------------------------ */

/* Returns -1 when the process is no more. */
static int take_message(Process *process) {
    char *payload;
    Reader reader;
    int kind = receive_message(process, &payload, &reader);
    switch (kind) {
    case MESSAGE_READY: ready(process, &reader); break;
    case MESSAGE_DONE: job_done(process, &reader); break;
    case MESSAGE_CALL:
    case MESSAGE_HOLD: begin_call(process, kind, &reader, payload); return 0;
    case MESSAGE_RELEASE: release(process, read_number(&reader), &reader); break;
    case MESSAGE_LOG: {
        char *level = read_text(&reader), *text = read_text(&reader);
        RedisModule_Log(log_context, strcmp(level, "warning") ? "notice" : "warning", "%.1000s", text);
        RedisModule_Free(level);
        RedisModule_Free(text);
    }
    }
    RedisModule_Free(payload);
    return kind == -1 ? -1 : 0;
}

static void send_dropped(Process *process) {
    for (;;) {
        pthread_mutex_lock(&process->mutex);
        uint64_t id = process->ndropped ? process->dropped[--process->ndropped] : 0;
        pthread_mutex_unlock(&process->mutex);
        if (id == 0) return;
        if (!carrier_has_compiled(process, id)) continue;
        carrier_note_compiled(process, id, 0);
        Writer writer = {0};
        write_number(&writer, (int64_t)id);
        send_message(process, MESSAGE_DROP, &writer, NULL);
    }
}

static void wait_for_anything(Process *process, int *has_message, int *has_ended) {
    struct pollfd fds[] = {{.fd = process->wake_fd, .events = POLLIN}, {.fd = process->socket, .events = POLLIN}};
    poll(fds, 2, -1);
    uint64_t count;
    if (fds[0].revents) {
        ssize_t ignored = read(process->wake_fd, &count, sizeof(count));
        (void)ignored;
    }
    *has_message = (fds[1].revents & POLLIN) != 0;
    *has_ended = !*has_message && (fds[1].revents & (POLLHUP | POLLERR)) != 0;
}

static void run_process(Process *process) {
    int has_message = 0, has_ended = 0;
    start(process);
    while (!has_ended && process->death[0] == '\0') {
        wait_for_anything(process, &has_message, &has_ended);
        if (has_message && take_message(process)) has_ended = 1;
        if (has_ended || process->state != PROCESS_UP) continue;
        answer_calls(process);
        send_dropped(process);
        send_job(process);
        carrier_work(process);
    }
    bury(process);
}

static void *carry(void *data) {
    Process *process = data;
    for (;;) {
        run_process(process);
        /* A process that cannot start must not keep a core busy. */
        struct timespec pause = {.tv_sec = process->failures ? 1 : 0};
        while (process->failures && nanosleep(&pause, &pause) == -1) {
        }
    }
    return NULL;
}

/* ---- the main thread ---------------------------------------------------------------------------------------------------------- */

static void results_came(int fd, void *data, int mask) {
    uint64_t count;
    ssize_t ignored = read(fd, &count, sizeof(count));
    (void)ignored;
    int processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) carrier_receive(table.processes[i]);
}

static Process *new_process(const char *device) {
    Process *process = RedisModule_Calloc(1, sizeof(*process));
    process->consumer = carrier_consumer;
    snprintf(process->device, sizeof(process->device), "%s", device);
    process->queue = queue_open(device, &process->consumer);
    process->shared = mmap(NULL, SHARED_TOTAL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    process->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    process->socket = process->status_fd = process->memory_fd = process->pidfd = -1;
    if (process->queue == NULL || process->shared == MAP_FAILED || process->wake_fd == -1) return NULL;
    pthread_mutex_init(&process->mutex, NULL);
    carrier_init(process);
    pthread_t thread;
    if (pthread_create(&thread, NULL, carry, process)) return NULL;
    pthread_detach(thread);
    return process;
}

/* NULL: there are too many. */
static Process *process_of(const char *device) {
    char name[16];
    size_t size = 0;
    for (; device[size] && size < sizeof(name) - 1; size++) name[size] = (char)toupper(device[size]);
    name[size] = '\0';
    pthread_mutex_lock(&table.mutex);
    Process *process = NULL;
    for (int i = 0; i < table.count && process == NULL; i++) {
        if (strcmp(table.processes[i]->device, name) == 0) process = table.processes[i];
    }
    if (process == NULL && table.count < MAX_PROCESSES && (process = new_process(name))) {
        table.processes[table.count] = process;
        __atomic_store_n(&table.count, table.count + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&table.mutex);
    return process;
}

static void drop(LoaderJob *job) {
    uint64_t id = job->job.runnable->id;
    int processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) {
        Process *process = table.processes[i];
        if (!carrier_has_compiled(process, id)) continue;
        pthread_mutex_lock(&process->mutex);
        if (process->ndropped == process->dropped_capacity) {
            process->dropped_capacity = process->dropped_capacity * 2 + 16;
            process->dropped =
                RedisModule_Realloc(process->dropped, process->dropped_capacity * sizeof(*process->dropped));
        }
        process->dropped[process->ndropped++] = id;
        pthread_mutex_unlock(&process->mutex);
        process_wake_carrier(process);
    }
    bridge_finish_job(&job->job, NULL);
}

static void route(LoaderJob *job) {
    if (job->job.kind == JOB_DROP) {
        drop(job);
        return;
    }
    Process *process = process_of(job->job.runnable ? job->job.runnable->device : "CPU");
    if (process == NULL) {
        bridge_finish_job(&job->job, "too many device queues (64)");
        return;
    }
    job_queue_add(&process->jobs, job);
    process_wake_carrier(process);
}

int isolation_start(RedisModuleCtx *ctx) {
    if (engine_find_python(ctx, python, sizeof(python))) return REDISMODULE_ERR;
    event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd == -1) return log_refusal(ctx, "no event for engine processes: %s", strerror(errno));
    RedisModule_EventLoopAdd(event_fd, REDISMODULE_EVENTLOOP_READABLE, results_came, NULL);
    jobs_set_router(route);
    if (process_of("CPU") == NULL) return log_refusal(ctx, "the engine process of CPU cannot be started");
    RedisModule_Log(ctx, "notice", "models run in processes of %s", python);
    return REDISMODULE_OK;
}
