/* messages.c - what the server and an engine process say to each other (process.h, shared.h): jobs of the loader, calls
 * of scripts, log lines.
 *
 * The carrier enters. The main thread performs calls, and hands them back. Lock: process.mutex, a leaf. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/options.h"
#include "isolation/process.h"
#include "redis/clock.h"
#include "run/run.h"
#include "run/script_calls.h"
#include "values/backend.h"
#include "values/model.h"
#include "values/names.h"
#include "values/script.h"

#define MAX_MESSAGE (1ULL << 30) /* of those that a process sends: a command of a script */
#define MAX_LINE 1000
#define MAX_LINES 100 /* in the log, by a process in an hour; others are left out, or they could fill the disk */
#define HOUR_NS 3600000000000LL
#define MAX_HELD 4096  /* models that scripts of one device hold */
#define STALL_MS 10000 /* a process that takes no bytes for so long, or sends a message for so long, is ended */

/* Of a script, while the main thread performs it or the script holds its model. */
typedef struct RemoteCall {
    ScriptCall call; /* first */
    Process *process;
    int64_t start; /* of the process that has called: a later one knows nothing of it */
    int64_t number;
    uint64_t slot;
    int32_t ticket;
    char *payload; /* what words and key point into */
    struct RemoteCall *next;
} RemoteCall;

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* Returns -1 once the process is no more, or takes nothing. */
static int send_all(Process *process, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(process->socket, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent == -1 && errno == EAGAIN) {
            struct pollfd writable = {.fd = process->socket, .events = POLLOUT};
            if (poll(&writable, 1, STALL_MS) == 1) continue;
            process_end(process, DIED, "it takes no messages");
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
    int failed =
        send_all(process, (const char *)header, sizeof(header)) || send_all(process, writer->data, writer->size);
    for (int64_t i = 0; blob && i < blob->npieces && !failed; i++) {
        failed = send_all(process, blob->pieces[i].data, blob->pieces[i].size);
    }
    RedisModule_Free(writer->data);
    return failed;
}

/* until: ns. */
static int receive_all(Process *process, char *data, size_t size, int64_t until) {
    while (size) {
        struct pollfd readable = {.fd = process->socket, .events = POLLIN};
        int64_t left = (until - monotonic_ns()) / 1000000;
        if (left <= 0 || poll(&readable, 1, (int)left) == 0) {
            process_end(process, DIED, "it sends a message that has no end");
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
    int64_t header[2], until = monotonic_ns() + STALL_MS * 1000000LL;
    *payload = NULL;
    if (receive_all(process, (char *)header, sizeof(header), until)) return -1;
    if (header[0] < 0 || (uint64_t)header[0] > MAX_MESSAGE) {
        process_end(process, DIED, "it sends a message that is too large");
        return -1;
    }
    /* It grows with what comes, not with what is promised. */
    for (int64_t done = 0; done < header[0];) {
        int64_t part = header[0] - done < 1 << 20 ? header[0] - done : 1 << 20;
        *payload = RedisModule_Realloc(*payload, done + part);
        if (receive_all(process, *payload + done, part, until)) return -1;
        done += part;
    }
    *reader = (Reader){.at = *payload, .end = *payload + header[0]};
    return (int)header[1];
}

/* A text that the server logs or shows: one line, and not a long one. The caller frees it. */
static char *read_line(Reader *reader) {
    char *text = read_text(reader);
    if (strlen(text) > MAX_LINE) text[MAX_LINE] = '\0';
    for (char *at = text; *at; at++) {
        if ((unsigned char)*at < ' ') *at = ' ';
    }
    return text;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static void finish_job(Process *process, const char *error) {
    LoaderJob *job = process->job;
    process->job = NULL;
    bridge_finish_job(&job->job, error);
}

static void write_path(Writer *writer) {
    char *path = bridge_backends_path();
    write_text(writer, path);
    bridge_free(path);
}

static void write_limits(Writer *writer, const Model *model) {
    write_bytes(writer, &model->limits, sizeof(model->limits));
}

static int send_load(Process *process, const Job *job) {
    const Runnable *runnable = job->runnable;
    Writer writer = {0};
    write_path(&writer);
    write_number(&writer, job->is_store);
    write_number(&writer, (int64_t)runnable->id);
    write_number(&writer, runnable->kind);
    write_number(&writer, runnable->backend);
    write_text(&writer, runnable->device);
    write_bytes(&writer, runnable->tag, runnable->tag_size);
    write_bytes(&writer, runnable->state->label, RUNNABLE_LABEL);
    if (runnable->kind == KIND_MODEL) {
        const Model *model = (const Model *)runnable;
        write_limits(&writer, model);
        write_names(&writer, &model->inputs);
        write_names(&writer, &model->outputs);
        write_names(&writer, &model->warmups);
        return send_message(process, MESSAGE_LOAD, &writer, model);
    }
    const Script *script = (const Script *)runnable;
    write_names(&writer, &script->entry_points);
    write_text(&writer, script->source);
    return send_message(process, MESSAGE_LOAD, &writer, NULL);
}

static void send_limits(Process *process, const Runnable *runnable) {
    Writer writer = {0};
    write_number(&writer, (int64_t)runnable->id);
    write_limits(&writer, (const Model *)runnable);
    send_message(process, MESSAGE_LIMITS, &writer, NULL);
}

static void send_import(Process *process, const Job *job) {
    Writer writer = {0};
    write_path(&writer);
    write_number(&writer, job->backend);
    write_text(&writer, job->path);
    send_message(process, MESSAGE_IMPORT, &writer, NULL);
}

/* The next import that this process lacks, as a job; NULL: it has all. */
static LoaderJob *next_import(Process *process) {
    for (const Import *import; (import = process_import(process->imported));) {
        process->imported++;
        if (import->by == process && import->start == process->starts) continue;
        LoaderJob *job = job_new(JOB_IMPORT, NULL);
        job->job.backend = import->backend;
        job->job.path = RedisModule_Strdup(import->path);
        return job;
    }
    return NULL;
}

static LoaderJob *next_job(Process *process) {
    LoaderJob *import = next_import(process);
    return import ? import : job_queue_take(&process->jobs);
}

static void refuse_set_aside(Process *process) {
    char name[RUNNABLE_NAME], error[512];
    runnable_name(process->job->job.runnable, name);
    snprintf(
        error, sizeof(error),
        "'%s' is set aside: %d engine processes have ended under it. Release it with AI.INFO <key> RESETSTAT, or store "
        "it anew",
        name, MAX_DEATHS);
    finish_job(process, error);
}

/* Gives the process its next job, if it has none. */
static void send_job(Process *process) {
    while (process->job == NULL && (process->job = next_job(process))) {
        const Job *job = &process->job->job;
        process->job_since = monotonic_ns();
        if (job->kind == JOB_IMPORT) {
            send_import(process, job);
        } else if (job->kind == JOB_LIMITS) {
            if (carrier_has_compiled(process, job->runnable)) send_limits(process, job->runnable);
            finish_job(process, NULL);
        } else if (carrier_is_set_aside(job->runnable)) {
            refuse_set_aside(process);
        } else if (carrier_has_compiled(process, job->runnable)) {
            finish_job(process, NULL);
        } else {
            send_load(process, job);
        }
    }
}

/* How the process has answered its job. */
static void job_done(Process *process, Reader *reader) {
    if (process->job == NULL) return;
    int failed = read_number(reader) != 0;
    char *error = read_text(reader);
    Declared declared = {0};
    for (int i = 0; i < DECLARED_LISTS; i++) read_names(reader, declared_list(&declared, i));
    declared.least_inputs = read_number(reader);
    declared.most_inputs = read_number(reader);
    declared.noutputs = read_number(reader);
    declared.is_stateful = read_number(reader) != 0;
    for (int i = 0; backend_row(i); i++) {
        char *version = read_line(reader), *advice = read_line(reader);
        if (*version && !reader->failed) bridge_backend_loaded(i, version, advice);
        RedisModule_Free(version);
        RedisModule_Free(advice);
    }
    if (reader->failed && !failed) {
        failed = 1;
        RedisModule_Free(error);
        error = RedisModule_Strdup("the process that compiled it gave an answer that makes no sense");
    }
    const Job *job = &process->job->job;
    Runnable *runnable = job->runnable;
    if (job->kind == JOB_IMPORT && !failed && process->job->finished) {
        process_add_import(process, job->backend, job->path); /* somebody has asked for it */
    }
    if (runnable && !failed) {
        carrier_note_compiled(process, runnable);
        if (carrier_is_own(process, runnable)) bridge_ready(runnable, process->queue, &declared, NULL);
    }
    declared_free(&declared);
    finish_job(process, failed ? error : NULL);
    RedisModule_Free(error);
}

/* ---- calls of scripts -------------------------------------------------------------------------------------------- */

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
    remote->start = process->starts;
    remote->payload = payload;
    remote->number = read_number(reader);
    remote->slot = (uint64_t)read_number(reader);
    remote->ticket = (int32_t)read_number(reader);
    Op *op = carrier_find_op(process, remote->slot, remote->ticket);
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
    if (op && !reader->failed && process->nheld < MAX_HELD &&
        carrier_note_call(process, remote->slot, remote->ticket, 1) == 0) {
        calls_post(&remote->call);
        return;
    }
    process_end(process, DIED, "it sends a call that makes no sense");
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
    carrier_note_call(process, remote->slot, remote->ticket, 0);
    if (job->error || remote->start != process->starts) {
        if (job->error) send_error(process, remote->number, job->error);
        runnable_unref(&remote->call.model->base);
        RedisModule_Free(remote);
    } else {
        send_reply(process, remote->number, &(Reply){.type = REPLY_INTEGER, .integer = remote->call.model->base.id});
        remote->next = process->held;
        process->held = remote;
        process->nheld++;
    }
    job_free(job);
}

static void hold(Process *process, RemoteCall *remote) {
    LoaderJob *job = job_new(JOB_LOAD, runnable_ref(&remote->call.model->base));
    job->data = remote;
    job->finished = model_loaded;
    job->is_urgent = 1;
    if (carrier_has_compiled(process, job->job.runnable)) { /* what the loader does meanwhile does not matter */
        model_loaded(job);
    } else {
        job_queue_add(&process->jobs, job);
    }
}

static void answer(Process *process, RemoteCall *remote) {
    ScriptCall *call = &remote->call;
    run_unref(call->op->run);
    RedisModule_Free((Bytes *)call->words);
    RedisModule_Free(remote->payload);
    if (remote->start != process->starts) {
        if (call->model) runnable_unref(&call->model->base);
        if (call->reply) bridge_free_reply(call->reply);
        RedisModule_Free(remote);
        return;
    }
    if (call->model) {
        hold(process, remote);
        return;
    }
    carrier_note_call(process, remote->slot, remote->ticket, 0);
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
        process->nheld--;
        int64_t duration = read_number(reader), samples = read_number(reader);
        int failed = read_number(reader) != 0, is_direct = read_number(reader) != 0;
        bridge_release_model(remote->call.model, duration, samples, failed, is_direct);
        RedisModule_Free(remote);
        return;
    }
}

void messages_start(Process *process) {
    Writer writer = {0};
    process->lines = 0;
    for (int i = 0; option_row(i); i++) write_number(&writer, option_row(i)->python.value);
    write_path(&writer);
    for (int i = 0; backend_row(i); i++) write_text(&writer, bridge_backend_to_load(i));
    write_text(&writer, bridge_onnx_custom_ops());
    write_text(&writer, process->device);
    send_message(process, MESSAGE_START, &writer, NULL);
}

static void ready(Process *process, Reader *reader) {
    char *error = read_line(reader);
    if (*error) {
        process_end(process, DIED, error);
    } else if (process->state == PROCESS_STARTING) {
        process_learn_engine(process);
        pthread_mutex_lock(&process->mutex);
        process->state = PROCESS_UP;
        pthread_mutex_unlock(&process->mutex);
    }
    RedisModule_Free(error);
}

static void log_line(Process *process, Reader *reader) {
    int64_t now = monotonic_ns();
    if (now - process->first_line > HOUR_NS) {
        process->first_line = now;
        process->lines = 0;
    }
    if (process->lines == MAX_LINES) return;
    process->lines++;
    char *level = read_line(reader), *text = read_line(reader);
    RedisModule_Log(log_context, strcmp(level, "warning") ? "notice" : "warning", "%.1000s%s", text,
                    process->lines == MAX_LINES ? " (more lines of this engine process are left out for an hour)" : "");
    RedisModule_Free(level);
    RedisModule_Free(text);
}

int messages_take(Process *process) {
    char *payload;
    Reader reader;
    int kind = receive_message(process, &payload, &reader);
    switch (kind) {
    case MESSAGE_READY: ready(process, &reader); break;
    case MESSAGE_DONE: job_done(process, &reader); break;
    case MESSAGE_CALL:
    case MESSAGE_HOLD: begin_call(process, kind, &reader, payload); return 0;
    case MESSAGE_RELEASE: release(process, read_number(&reader), &reader); break;
    case MESSAGE_LOG: log_line(process, &reader); break;
    }
    RedisModule_Free(payload);
    return kind == -1 ? -1 : 0;
}

void messages_drain(Process *process) {
    struct pollfd readable = {.fd = process->socket, .events = POLLIN};
    while (poll(&readable, 1, 0) == 1 && (readable.revents & POLLIN) && messages_take(process) == 0) {
    }
}

/* ---- what the carrier sends -------------------------------------------------------------------------------------- */

static void send_dropped(Process *process) {
    for (;;) {
        pthread_mutex_lock(&process->mutex);
        uint64_t id = process->ndropped ? process->dropped[--process->ndropped] : 0;
        if (id) RedisModule_DictDelC(process->guests, &id, sizeof(id), NULL);
        pthread_mutex_unlock(&process->mutex);
        if (id == 0) return;
        Writer writer = {0};
        write_number(&writer, (int64_t)id);
        send_message(process, MESSAGE_DROP, &writer, NULL);
    }
}

void messages_send(Process *process) {
    answer_calls(process);
    send_dropped(process);
    send_job(process);
}

void messages_abandon(Process *process, const char *reason) {
    char error[512], name[RUNNABLE_NAME];
    process->imported = 0;
    if (process->job) {
        Runnable *runnable = process->job->job.runnable;
        int is_killed = process->death.verdict == KILLED && runnable && runnable->id == process->death.guilty;
        int is_guilty = process->death.verdict == LOAD_TIMED_OUT ||
                        (process->death.verdict == DIED && runnable && carrier_died_under(process, runnable->id));
        if (runnable) runnable_name(runnable, name);
        snprintf(error, sizeof(error), "the process that compiled '%s' ended: %s; %s starts anew",
                 runnable ? name : "?", reason, process->device);
        if (runnable && is_guilty) carrier_count_death(process, runnable);
        if (is_guilty || is_killed || !runnable) {
            finish_job(process, error);
        } else {
            process->job->is_urgent = 1; /* first for the next process */
            job_queue_add(&process->jobs, process->job);
            process->job = NULL;
        }
    }
    for (RemoteCall *held = process->held, *next; held; held = next) {
        next = held->next;
        bridge_release_model(held->call.model, -1, 0, 1, 0);
        RedisModule_Free(held);
    }
    process->held = NULL;
    process->nheld = 0;
}

void messages_refuse_jobs(Process *process, const char *error) {
    while ((process->job = job_queue_take(&process->jobs))) finish_job(process, error);
}
