/* carrier.c - ops on their way to an engine process and back (process.h, shared.h).
 *
 * The main thread and the carrier enter. Lock: process.mutex. Nothing that is read from shared memory is trusted:
 * slots, offsets and sizes are checked against private records, results are copied before they are parsed. */
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/options.h"
#include "isolation/process.h"
#include "redis/clock.h"
#include "run/run.h"
#include "values/runnable.h"
#include "values/tensor.h"

#define NONE UINT32_MAX
#define MAX_RESULT (1 << 20)

/* ---- what the process has compiled ------------------------------------------------------------------------------- */

/* A value knows the process of its own device, so that most need no entry of a dictionary. */
void carrier_note_compiled(Process *process, Runnable *runnable) {
    pthread_mutex_lock(&process->mutex);
    if (carrier_is_own(process, runnable)) {
        __atomic_store_n(&runnable->state->compiled_by, process->started, __ATOMIC_RELAXED);
    } else {
        RedisModule_DictSetC(process->guests, &runnable->id, sizeof(runnable->id), process);
    }
    pthread_mutex_unlock(&process->mutex);
}

/* With the mutex held. */
static int has_compiled(Process *process, const Runnable *runnable) {
    if (process->state != PROCESS_UP) return 0;
    if (__atomic_load_n(&runnable->state->compiled_by, __ATOMIC_RELAXED) == process->started) return 1;
    return RedisModule_DictGetC(process->guests, (void *)&runnable->id, sizeof(runnable->id), NULL) != NULL;
}

int carrier_has_compiled(Process *process, const Runnable *runnable) {
    pthread_mutex_lock(&process->mutex);
    int has = has_compiled(process, runnable);
    pthread_mutex_unlock(&process->mutex);
    return has;
}

int carrier_is_own(const Process *process, const Runnable *runnable) {
    char name[QUEUE_NAME];
    bridge_queue_name(runnable->device, name);
    return strcmp(name, process->device) == 0;
}

/* ---- to the process ---------------------------------------------------------------------------------------------- */

/* In a request, a STRING's data has its offsets behind it. */
static uint64_t offsets_bytes(const Tensor *tensor) { return tensor->offsets ? tensor->length * sizeof(uint64_t) : 0; }
static uint64_t tensor_bytes(const Tensor *tensor) { return align64(tensor->size) + align64(offsets_bytes(tensor)); }

static uint64_t input_bytes(const Op *op) {
    uint64_t size = 0;
    for (int i = 0; i < op->ninputs; i++) size += tensor_bytes(op->inputs[i]);
    return size;
}

static void write_words(Writer *writer, const Bytes *words, int count) {
    write_number(writer, count);
    for (int i = 0; i < count; i++) write_bytes(writer, words[i].data, words[i].size);
}

static void write_request(Writer *writer, const Op *op) {
    uint64_t offset = 0;
    writer->size = 0;
    write_number(writer, (int64_t)op->id);
    write_number(writer, op->arrival);
    write_number(writer, op->ninputs);
    write_number(writer, op->noutputs);
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        write_number(writer, tensor->dtype);
        write_number(writer, tensor->ndim);
        for (int d = 0; d < tensor->ndim; d++) write_number(writer, tensor->shape[d]);
        write_number(writer, (int64_t)offset);
        write_number(writer, (int64_t)tensor->size);
        offset += tensor_bytes(tensor);
    }
    if (op->runnable->kind != KIND_SCRIPT) return;
    write_text(writer, op->function);
    write_words(writer, op->keys, op->nkeys);
    write_words(writer, op->args, op->nargs);
}

/* Gives the op a slot and a block with its request. Returns the slot, or NONE. Call it with the mutex held. If
 * is_watched is not set then, set it and wake the carrier. */
static uint32_t prepare(Process *process, Op *op) {
    uint32_t index = process->first_free;
    if (process->state != PROCESS_UP || process->is_clearing || index == NONE) return NONE;
    Ticket *ticket = &process->tickets[index];
    Slot *slot = &process->shared->slots[index];
    write_request(&process->scratch, op);
    uint64_t header = process->scratch.size, offset, size = align64(header) + input_bytes(op);
    char *block = arena_alloc(&process->arena, size, &offset);
    if (block == NULL) return NONE;
    memcpy(block, process->scratch.data, header);
    process->first_free = ticket->next_free;
    process->used++;
    if (index >= process->top) process->top = index + 1;
    process->last_number = (int32_t)((uint32_t)process->last_number + TICKET_STEP);
    *ticket = (Ticket){.op = op, .request = offset, .size = size, .number = process->last_number};
    slot->request = offset;
    slot->request_size = header;
    slot->priority = op->priority;
    return index;
}

static void copy_inputs(Process *process, uint32_t index) {
    const Ticket *ticket = &process->tickets[index];
    const Op *op = ticket->op;
    char *at = servers_stretch(process->shared) + ticket->request + ticket->size - input_bytes(op);
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        memcpy(at, tensor->data, tensor->size);
        if (tensor->offsets) memcpy(at + align64(tensor->size), tensor->offsets, offsets_bytes(tensor));
        at += tensor_bytes(tensor);
    }
}

/* With the mutex held. */
static void publish(Process *process, uint32_t index) {
    const Ticket *ticket = &process->tickets[index];
    Shared *shared = process->shared;
    __atomic_store_n(&shared->slots[index].word, ticket->number | OP_QUEUED, __ATOMIC_SEQ_CST);
    __atomic_store_n(&ticket->op->state->ticket, ticket->number, __ATOMIC_RELAXED);
    __atomic_store_n(&ticket->op->state->shared, &shared->slots[index].word, __ATOMIC_SEQ_CST);
    shared->submissions[process->submitted % SLOTS] = index;
    __atomic_store_n(&shared->submitted, ++process->submitted, __ATOMIC_SEQ_CST);
    /* Either this sees that nobody waits any more, or who made it so sees that the op is shared. */
    if (op_is_wanted(ticket->op)) return;
    op_disown(ticket->op);
    __atomic_add_fetch(&shared->unwanted, 1, __ATOMIC_SEQ_CST);
}

static void wake_process(Consumer *consumer) {
    Shared *shared = ((Process *)consumer)->shared;
    if (!__atomic_exchange_n(&shared->process_sleeps, 0, __ATOMIC_SEQ_CST)) return;
    syscall(SYS_futex, &shared->process_sleeps, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void add_pending(Process *process, Op *op) {
    OpList *pending = &process->pending[op->priority];
    op->state->next = NULL;
    *(pending->last ? &pending->last->state->next : &pending->first) = op;
    pending->last = op;
}

/* Those of the highest priority that has any; or some without an op. With the mutex held. */
static OpList *next_pending(Process *process) {
    OpList *pending = &process->pending[PRIORITY_HIGH];
    while (pending->first == NULL && pending > process->pending) pending--;
    return pending;
}

static void push(Consumer *consumer, Op *op) {
    Process *process = (Process *)consumer;
    uint32_t index = NONE;
    pthread_mutex_lock(&process->mutex);
    if (!has_compiled(process, op->runnable) || carrier_is_set_aside(op->runnable)) {
        pthread_mutex_unlock(&process->mutex);
        op_wait_for_loader(op); /* who refuses it, if it is set aside */
        return;
    }
    if (input_bytes(op) <= SMALL) index = prepare(process, op);
    int wakes_carrier = index == NONE || !process->is_watched;
    process->is_watched = 1;
    if (index == NONE) {
        add_pending(process, op);
    } else {
        copy_inputs(process, index);
        publish(process, index);
    }
    pthread_mutex_unlock(&process->mutex);
    if (wakes_carrier) process_wake_carrier(process);
}

static void note_unwanted(Consumer *consumer) {
    Process *process = (Process *)consumer;
    __atomic_add_fetch(&process->shared->unwanted, 1, __ATOMIC_SEQ_CST);
    wake_process(consumer);
}

static void note_full(Consumer *consumer, int64_t model) {
    Shared *shared = ((Process *)consumer)->shared;
    __atomic_store_n(&shared->full, model, __ATOMIC_RELAXED);
    __atomic_add_fetch(&shared->refused, 1, __ATOMIC_SEQ_CST);
    wake_process(consumer);
}

/* Takes the first pending op off the list, with a slot in *index; or with NONE, if nobody wants it any more. NULL:
 * there is none, or no room for it. */
static Op *take_pending(Process *process, uint32_t *index) {
    pthread_mutex_lock(&process->mutex);
    OpList *pending = next_pending(process);
    Op *op = pending->first;
    *index = op && op_is_wanted(op) ? prepare(process, op) : NONE;
    if (op && *index == NONE && op_is_wanted(op)) op = NULL; /* until a result frees a slot */
    if (*index != NONE) process->is_watched = 1;
    if (op) pending->first = op->state->next;
    if (pending->first == NULL) pending->last = NULL;
    pthread_mutex_unlock(&process->mutex);
    return op;
}

static void send_pending(Process *process) {
    uint32_t index;
    for (Op *op; (op = take_pending(process, &index));) {
        if (index == NONE) {
            op_drop(op);
            continue;
        }
        copy_inputs(process, index);
        pthread_mutex_lock(&process->mutex);
        publish(process, index);
        pthread_mutex_unlock(&process->mutex);
        wake_process(&process->consumer);
    }
}

/* ---- back from the process --------------------------------------------------------------------------------------- */

typedef struct Output {
    int dtype, ndim;
    int64_t shape[TENSOR_MAX_DIMS];
    uint64_t offset, size;
    uint64_t strings, strings_size; /* where a STRING's offsets are */
} Output;

/* 0: the output is no tensor, or what was read makes no sense. */
static int read_output(Reader *reader, Output *output) {
    if (!read_number(reader)) return 0;
    output->dtype = (int)read_number(reader);
    output->ndim = (int)read_number(reader);
    if (output->ndim < 0 || output->ndim > TENSOR_MAX_DIMS) reader->failed = 1;
    for (int i = 0; i < output->ndim && !reader->failed; i++) output->shape[i] = read_number(reader);
    output->offset = (uint64_t)read_number(reader);
    output->size = (uint64_t)read_number(reader);
    output->strings = (uint64_t)read_number(reader);
    output->strings_size = 0;
    if (output->offset > STRETCH || output->size > STRETCH - output->offset) reader->failed = 1;
    if (reader->failed || !dtype_row(output->dtype) || !dtype_is_string(output->dtype)) return !reader->failed;
    int64_t length;
    uint64_t least;
    if (tensor_measure(output->dtype, output->ndim, output->shape, &length, &least) == -1) reader->failed = 1;
    if (!reader->failed && least <= output->size) output->strings_size = least * sizeof(uint64_t);
    if (output->strings > STRETCH || output->strings_size > STRETCH - output->strings) reader->failed = 1;
    return !reader->failed;
}

/* Strings and booleans are checked: so from a copy that the process cannot change meanwhile. */
static void set_output(Process *process, Op *op, int index, const Output *output) {
    const char *stretch = process_stretch(process->shared), *data = stretch + output->offset;
    int is_string = dtype_row(output->dtype) && dtype_is_string(output->dtype);
    int is_checked = is_string || (dtype_row(output->dtype) && dtype_is_bool(output->dtype));
    char *copy = NULL;
    uint64_t *offsets = NULL;
    if (is_checked && output->size <= bridge_max_tensor_bytes()) {
        copy = RedisModule_Alloc(output->size + 1);
        memcpy(copy, data, output->size);
        if (is_string) {
            offsets = RedisModule_Alloc(output->strings_size + 1);
            memcpy(offsets, stretch + output->strings, output->strings_size);
        }
    }
    bridge_set_output(op, index, output->dtype, output->ndim, output->shape, copy ? copy : data, output->size, offsets);
    RedisModule_Free(offsets);
    RedisModule_Free(copy);
}

static void read_outputs(Process *process, Reader *reader, Op *op) {
    Output output;
    for (int i = 0; i < op->noutputs; i++) {
        if (read_output(reader, &output)) set_output(process, op, i, &output);
    }
    if (reader->failed) bridge_fail(op, "the process that ran it gave a result that makes no sense");
}

/* The bytes of all outputs. */
static uint64_t output_bytes(Reader reader, const Op *op) {
    uint64_t size = 0;
    Output output;
    for (int i = 0; i < op->noutputs; i++) {
        if (read_output(&reader, &output)) size += output.size + output.strings_size;
    }
    return size;
}

/* The result of a slot, copied. Returns NULL where there is none. */
static char *copy_result(Process *process, uint32_t index, Reader *reader) {
    const Slot *slot = &process->shared->slots[index];
    uint64_t offset = __atomic_load_n(&slot->result, __ATOMIC_RELAXED);
    uint64_t size = __atomic_load_n(&slot->result_size, __ATOMIC_RELAXED);
    if (size == 0 || size > MAX_RESULT || offset > STRETCH - size) return NULL;
    char *copy = RedisModule_Alloc(size);
    memcpy(copy, process_stretch(process->shared) + offset, size);
    *reader = (Reader){.at = copy, .end = copy + size};
    return copy;
}

/* Frees the slot, of which the process may forget the result. With the mutex held. */
static void free_slot(Process *process, uint32_t index) {
    Ticket *ticket = &process->tickets[index];
    arena_free(&process->arena, ticket->request, ticket->size);
    __atomic_store_n(&process->shared->slots[index].acked, ticket->number, __ATOMIC_RELEASE);
    ticket->op = NULL;
    if (--process->used == 0) process->last_used = monotonic_ns();
    ticket->next_free = process->first_free;
    process->first_free = index;
}

static void read_tuning(Reader *reader, const Op *op) {
    int64_t numbers[sizeof(Tuning) / sizeof(int64_t)];
    if (!read_number(reader)) return;
    for (size_t i = 0; i < sizeof(Tuning) / sizeof(int64_t); i++) numbers[i] = read_number(reader);
    if (!reader->failed) runnable_set_tuning(op->runnable, (const Tuning *)numbers);
}

/* Takes an op back with what its result says. Returns whether bridge_finish_ops is to get it. */
static int take_result(Process *process, Op *op, Reader *reader, int has_result) {
    int is_skipped = has_result && !read_number(reader);
    /* Nobody has asked for that. The op itself does not say so: the process may have written to its slot. */
    if (is_skipped && run_is_waiting(op->run) && !run_has_failed(op->run)) reader->failed = 1;
    if (is_skipped && !reader->failed) {
        __atomic_store_n(&op->state->shared, NULL, __ATOMIC_RELEASE);
        op_drop(op);
        return 0;
    }
    int64_t now = monotonic_ns(), begun = read_number(reader);
    if (!op_take_back(op, begun < op->state->queued || begun > now ? now : begun)) return 0;
    op->duration = read_number(reader);
    op->input_ns = read_number(reader);
    op->output_ns = read_number(reader);
    op->state->batch_total = (int32_t)read_number(reader);
    op->is_direct = read_number(reader) != 0;
    int failed = read_number(reader) != 0;
    char *error = read_text(reader);
    if (failed || !has_result) bridge_fail(op, has_result ? error : "not enough memory for the outputs");
    RedisModule_Free(error);
    if (!failed && has_result) {
        read_outputs(process, reader, op);
        read_tuning(reader, op);
    }
    return 1;
}

static int is_large(Reader result, const Op *op) {
    for (int i = 0; i < 8; i++) read_number(&result);
    read_bytes(&result);
    return output_bytes(result, op) > SMALL;
}

static void leave_to_carrier(Process *process, uint32_t index) {
    if (process->nlarge == process->large_capacity) {
        process->large_capacity = process->large_capacity * 2 + 16;
        process->large = RedisModule_Realloc(process->large, process->large_capacity * sizeof(*process->large));
    }
    process->large[process->nlarge++] = index;
    process->tickets[index].is_large = 1;
}

/* Reads one result on the main thread. Returns the op to finish, or NULL: it was skipped, is for the carrier, or makes
 * no sense. With the mutex held. */
static Op *receive_one(Process *process, uint32_t index) {
    Op *op = index < SLOTS ? process->tickets[index].op : NULL;
    if (op == NULL || process->tickets[index].is_large) {
        process->is_lying = 1;
        return NULL;
    }
    Reader reader = {0};
    char *result = copy_result(process, index, &reader);
    /* What a script has told by messages comes first. */
    if (process->tickets[index].has_called || (result && is_large(reader, op))) {
        RedisModule_Free(result);
        leave_to_carrier(process, index);
        return NULL;
    }
    int is_to_finish = take_result(process, op, &reader, result != NULL);
    RedisModule_Free(result);
    free_slot(process, index);
    return is_to_finish ? op : NULL;
}

#define RECEIVED_AT_ONCE 64

static int receive_some(Process *process) {
    Op *ops[RECEIVED_AT_ONCE];
    int count = 0, seen = 0;
    pthread_mutex_lock(&process->mutex);
    uint32_t completed = __atomic_load_n(&process->shared->completed, __ATOMIC_ACQUIRE);
    while (process->state == PROCESS_UP && !process->is_lying && process->completed != completed &&
           seen < RECEIVED_AT_ONCE) {
        Op *op = receive_one(process, process->shared->completions[process->completed % SLOTS]);
        if (op) ops[count++] = op;
        process->completed++;
        seen++;
    }
    int is_carriers = process->nlarge || next_pending(process)->first || process->is_lying;
    pthread_mutex_unlock(&process->mutex);
    bridge_finish_ops(ops, count, NULL, 0);
    if (is_carriers) process_wake_carrier(process);
    return seen;
}

static int has_results(Process *process) {
    pthread_mutex_lock(&process->mutex);
    uint32_t completed = __atomic_load_n(&process->shared->completed, __ATOMIC_SEQ_CST);
    int has = process->state == PROCESS_UP && !process->is_lying && completed != process->completed;
    pthread_mutex_unlock(&process->mutex);
    return has;
}

void carrier_receive(Process *process) {
    do {
        while (receive_some(process)) {
        }
        __atomic_store_n(&process->shared->server_sleeps, 1, __ATOMIC_SEQ_CST);
    } while (has_results(process));
}

static void read_large_results(Process *process) {
    for (;;) {
        pthread_mutex_lock(&process->mutex);
        uint32_t index = NONE;
        if (process->nread < process->nlarge) index = process->large[process->nread++];
        if (process->nread == process->nlarge) process->nread = process->nlarge = 0;
        pthread_mutex_unlock(&process->mutex);
        if (index == NONE) return;
        Op *op = process->tickets[index].op;
        if (process->tickets[index].has_called) messages_drain(process);
        Reader reader = {0};
        char *result = copy_result(process, index, &reader);
        int64_t before = monotonic_ns();
        int is_to_finish = take_result(process, op, &reader, result != NULL);
        /* To copy large outputs is part of the run. */
        if (is_to_finish) op->duration += (monotonic_ns() - before) / 1000;
        RedisModule_Free(result);
        pthread_mutex_lock(&process->mutex);
        free_slot(process, index);
        pthread_mutex_unlock(&process->mutex);
        if (is_to_finish) bridge_finish_ops(&op, 1, NULL, 0);
    }
}

void carrier_work(Process *process) {
    read_large_results(process);
    send_pending(process);
}

/* ---- ops that run ------------------------------------------------------------------------------------------------ */

/* Whether the process has begun the op. With the mutex held. */
static int is_begun(const Process *process, uint32_t index) {
    int32_t word = __atomic_load_n(&process->shared->slots[index].word, __ATOMIC_SEQ_CST);
    return process->tickets[index].op && word != (process->tickets[index].number | OP_QUEUED);
}

/* When a worker of the process, or its loader, has begun with what this runnable runs now; 0: none does. */
static int64_t busy_since(const Process *process, uint64_t id) {
    int64_t latest = 0;
    for (int i = 0; i < RUNNING_RECORDS; i++) {
        const RunningRecord *record = &process->shared->running[i];
        int64_t since = __atomic_load_n(&record->since, __ATOMIC_RELAXED);
        if (since > latest && __atomic_load_n(&record->id, __ATOMIC_RELAXED) == id) latest = since;
    }
    return latest;
}

/* Whether the id is that of the op's run, or of its model or script. */
static int has_id(const Op *op, uint64_t id) { return op->id == id || op->run->id == id; }

int carrier_runs(Process *process, uint64_t id) {
    pthread_mutex_lock(&process->mutex);
    int is_up = process->state == PROCESS_UP, runs = is_up && busy_since(process, id);
    for (uint32_t i = 0; i < process->top && !runs && is_up; i++) {
        runs = process->tickets[i].op && has_id(process->tickets[i].op, id) && is_begun(process, i);
    }
    pthread_mutex_unlock(&process->mutex);
    return runs;
}

#define ONNX_GRACE_NS 1000000000LL /* the library ends a run itself, between two nodes */

#define MAX_QUEUED 10 /* of the limit: a process that does not tell what it runs is ended, too */

/* A worker begins several ops at once. Those behind the one that takes too long are not overdue. */
static int is_overdue(const Process *process, const Ticket *ticket, int64_t now) {
    int64_t limit = model_execution_timeout() * 1000000, taken = now - ticket->running_since;
    if (ticket->op->runnable->backend == BACKEND_ONNX) limit += ONNX_GRACE_NS;
    if (ticket->is_calling || !ticket->running_since || taken <= limit) return 0;
    int64_t since = busy_since(process, ticket->op->id);
    return (since && now - since > limit) || taken > MAX_QUEUED * limit;
}

/* Marks those that are overdue. Returns one of them, with its run held, or NULL. */
static Op *find_overdue(Process *process) {
    Op *found = NULL;
    int64_t now = monotonic_ns();
    pthread_mutex_lock(&process->mutex);
    for (uint32_t i = 0; i < process->top; i++) {
        Ticket *ticket = &process->tickets[i];
        if (!is_begun(process, i)) continue;
        if (ticket->running_since == 0) ticket->running_since = now;
        if (!is_overdue(process, ticket, now)) continue;
        ticket->is_overdue = 1;
        if (found == NULL) found = ticket->op;
    }
    if (found) run_ref(found->run);
    pthread_mutex_unlock(&process->mutex);
    return found;
}

static void end_killed(Process *process) {
    pthread_mutex_lock(&process->mutex);
    uint64_t id = process->to_kill;
    process->to_kill = 0;
    int is_lying = process->is_lying;
    pthread_mutex_unlock(&process->mutex);
    if (is_lying) process_end(process, DIED, "it tells of results that make no sense");
    if (id == 0 || !carrier_runs(process, id)) return;
    process->death.guilty = id;
    process_end(process, KILLED, "AI.KILL");
}

static void end_overdue_job(Process *process) {
    char why[160], name[RUNNABLE_NAME];
    int64_t limit = model_load_timeout();
    if (!limit || process->job == NULL || process->job->job.kind != JOB_LOAD) return;
    if (monotonic_ns() - process->job_since < limit * 1000000) return;
    runnable_name(process->job->job.runnable, name);
    snprintf(why, sizeof(why), "to compile '%s' took more than MODEL_LOAD_TIMEOUT, %lld ms", name, (long long)limit);
    process_end(process, LOAD_TIMED_OUT, why);
}

#define REST_NS 200000000
#define KEPT (16 << 20) /* of shared memory, while nothing runs */

/* No slot is used, so no block is. Ops that come meanwhile wait. */
static void clear_memory(Process *process) {
    madvise(servers_stretch(process->shared), process->arena.used, MADV_REMOVE);
    pthread_mutex_lock(&process->mutex);
    arena_reset(&process->arena);
    process->is_clearing = 0;
    pthread_mutex_unlock(&process->mutex);
    send_pending(process);
}

/* Nothing runs any more: memory goes back to the kernel, on both sides. */
static void rest(Process *process, int is_clearing) {
    __atomic_store_n(&process->shared->is_idle, 1, __ATOMIC_SEQ_CST);
    wake_process(&process->consumer);
    if (is_clearing) clear_memory(process);
}

int carrier_watch(Process *process) {
    char why[160], name[RUNNABLE_NAME];
    end_killed(process);
    end_overdue_job(process);
    Op *overdue = find_overdue(process);
    if (overdue) {
        runnable_name(overdue->runnable, name);
        snprintf(why, sizeof(why), "a run of '%s' took more than MODEL_EXECUTION_TIMEOUT, %lld ms", name,
                 (long long)model_execution_timeout());
        process_end(process, TIMED_OUT, why);
        run_unref(overdue->run);
    }
    pthread_mutex_lock(&process->mutex);
    int rests = process->is_watched && process->used == 0 && monotonic_ns() - process->last_used > REST_NS;
    process->is_watched = process->is_watched && !rests;
    process->is_clearing = rests && process->arena.used > KEPT;
    int is_clearing = process->is_clearing, again = process->is_watched || process->job;
    pthread_mutex_unlock(&process->mutex);
    if (rests) rest(process, is_clearing);
    return again;
}

/* ---- the end of a process ---------------------------------------------------------------------------------------- */

int carrier_is_set_aside(const Runnable *runnable) { return stats_get(&runnable->state->stats.deaths) >= MAX_DEATHS; }

void carrier_count_death(Process *process, Runnable *runnable) {
    char name[RUNNABLE_NAME];
    int64_t last = __atomic_exchange_n(&runnable->state->died, process->started, __ATOMIC_RELAXED);
    if (last == process->started) return; /* another of its ops was counted */
    int64_t deaths = __atomic_add_fetch(&runnable->state->stats.deaths, 1, __ATOMIC_RELAXED);
    runnable_name(runnable, name);
    RedisModule_Log(log_context, "warning", "an engine process of %s has ended under '%s' (%s), deaths so far: %lld%s",
                    process->device, name, runnable->state->label, (long long)deaths,
                    deaths >= MAX_DEATHS ? "; it is set aside" : "");
}

int carrier_died_under(const Process *process, uint64_t id) {
    if (process->death.guilty) return id == process->death.guilty;
    return !process->death.is_told || busy_since(process, id);
}

static int is_guilty(const Process *process, const Ticket *ticket) {
    switch (process->death.verdict) {
    case TIMED_OUT: return ticket->is_overdue;
    case LOAD_TIMED_OUT: return 0;
    case KILLED: return has_id(ticket->op, process->death.guilty);
    default: return carrier_died_under(process, ticket->op->id);
    }
}

/* A model has no effect before its end. A script may have written. */
static int can_run_again(const Process *process, const Ticket *ticket) {
    return process->death.verdict != DIED && !is_guilty(process, ticket) && !ticket->has_called;
}

static void fail_begun(Process *process, const Ticket *ticket, int guilty) {
    char error[512], name[RUNNABLE_NAME];
    Op *op = ticket->op;
    int64_t now = monotonic_ns();
    runnable_name(op->runnable, name);
    if (guilty && process->death.verdict == KILLED) {
        snprintf(error, sizeof(error), "the run of '%s' was ended by AI.KILL", name);
    } else if (guilty && process->death.verdict == TIMED_OUT) {
        snprintf(error, sizeof(error), "%s", process->death.reason);
    } else {
        snprintf(error, sizeof(error), "the process that ran '%s' ended: %s; %s starts anew", name,
                 process->death.reason, process->device);
    }
    if (guilty && process->death.verdict != KILLED) carrier_count_death(process, op->runnable);
    if (!op_take_back(op, now)) return;
    op->duration = ticket->running_since ? (now - ticket->running_since) / 1000 : 0;
    bridge_fail(op, error);
    bridge_finish_ops(&op, 1, NULL, 0);
}

static void abandon_one(Process *process, uint32_t index) {
    pthread_mutex_lock(&process->mutex);
    const Ticket ticket = process->tickets[index];
    Op *op = ticket.op;
    int waits = op && (!is_begun(process, index) || can_run_again(process, &ticket));
    int guilty = op && !waits && is_guilty(process, &ticket);
    if (op) free_slot(process, index);
    if (waits) {
        __atomic_store_n(&op->state->shared, NULL, __ATOMIC_RELEASE);
        add_pending(process, op);
    }
    pthread_mutex_unlock(&process->mutex);
    if (op && !waits) fail_begun(process, &ticket, guilty);
}

/* Finds out under which runnables it has died. Only those that run or are compiled: the process may lie. */
static void find_guilty(Process *process) {
    const Runnable *job = process->job ? process->job->job.runnable : NULL;
    uint64_t dying = process->shared->dying;
    int may_be = job && job->id == dying;
    process->death.is_told = job && busy_since(process, job->id);
    for (uint32_t i = 0; i < process->top; i++) {
        if (!is_begun(process, i)) continue;
        uint64_t id = process->tickets[i].op->id;
        if (id == dying) may_be = 1;
        if (busy_since(process, id)) process->death.is_told = 1;
    }
    process->death.guilty = may_be ? dying : 0;
}

void carrier_abandon(Process *process) {
    if (process->death.verdict == DIED) find_guilty(process);
    for (uint32_t i = 0; i < process->top; i++) abandon_one(process, i);
    pthread_mutex_lock(&process->mutex);
    OpList all[PRIORITIES];
    memcpy(all, process->pending, sizeof(all));
    memset(process->pending, 0, sizeof(all));
    process->nread = process->nlarge = 0;
    process->top = 0;
    process->to_kill = 0;
    RedisModuleDict *forgotten = process->guests;
    process->guests = RedisModule_CreateDict(NULL);
    pthread_mutex_unlock(&process->mutex);
    RedisModule_FreeDict(NULL, forgotten);
    for (int i = PRIORITY_HIGH; i >= PRIORITY_LOW; i--) {
        for (Op *op; (op = all[i].first);) {
            all[i].first = op->state->next;
            op_wait_for_loader(op);
        }
    }
}

/* With the mutex held. NULL: there is no such op. */
static Ticket *find_ticket(Process *process, uint64_t slot, int32_t number) {
    Ticket *ticket = slot < SLOTS ? &process->tickets[slot] : NULL;
    return ticket && ticket->op && ticket->number == number ? ticket : NULL;
}

int carrier_note_call(Process *process, uint64_t slot, int32_t number, int is_open) {
    int64_t now = monotonic_ns();
    pthread_mutex_lock(&process->mutex);
    Ticket *ticket = find_ticket(process, slot, number);
    int failed = ticket && is_open && ticket->is_calling;
    if (ticket && is_open) {
        ticket->has_called = 1;
        ticket->called = now;
    } else if (ticket && ticket->running_since) {
        ticket->running_since += now - ticket->called;
    }
    if (ticket) ticket->is_calling = is_open;
    pthread_mutex_unlock(&process->mutex);
    return failed ? -1 : 0;
}

Op *carrier_find_op(Process *process, uint64_t slot, int32_t number) {
    pthread_mutex_lock(&process->mutex);
    const Ticket *ticket = find_ticket(process, slot, number);
    Op *op = ticket && ticket->op->runnable->kind == KIND_SCRIPT && is_begun(process, slot) ? ticket->op : NULL;
    if (op) run_ref(op->run);
    pthread_mutex_unlock(&process->mutex);
    return op;
}

static double cpu(Consumer *consumer) {
    clockid_t clock;
    struct timespec used;
    pid_t pid = ((Process *)consumer)->engine;
    if (pid == 0 || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &used)) return -1;
    return (double)used.tv_sec + used.tv_nsec / 1e9;
}

const Consumer carrier_consumer = {push, wake_process, note_unwanted, note_full, cpu};

void carrier_init(Process *process) {
    process->tickets = RedisModule_Calloc(SLOTS, sizeof(*process->tickets));
    for (uint32_t i = 0; i < SLOTS; i++) process->tickets[i].next_free = i + 1 < SLOTS ? i + 1 : NONE;
    process->guests = RedisModule_CreateDict(NULL);
    arena_init(&process->arena, servers_stretch(process->shared), STRETCH);
}
