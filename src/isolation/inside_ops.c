/* inside_ops.c - ops in an engine process: from requests to results (inside.h, shared.h).
 *
 * Workers enter: receive under the mutex of the queue, finish without. Lock: results.mutex, a leaf. */
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "isolation/inside.h"
#include "redis/clock.h"
#include "run/run.h"
#include "values/runnable.h"
#include "values/tensor.h"

static Shared *shared;
static int event_fd;
/* What was received of the submissions, and of those that became unwanted. Atomic: written under the queue's mutex. */
static uint32_t received, unwanted, refused;

/* Runs whose result the server has not read yet, in the order in which they ended. */
static struct {
    pthread_mutex_t mutex;
    Run *first, *last; /* linked by waiter.next */
    Writer writer;
} results = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void inside_ops_init(Shared *given, int event) {
    shared = given;
    event_fd = event;
}

static Slot *slot_of(const Op *op) { return (Slot *)((char *)op->state->shared - offsetof(Slot, word)); }
uint64_t inside_slot(const Op *op) { return (uint64_t)(slot_of(op) - shared->slots); }

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

static Bytes *read_words(Reader *reader, int32_t *count) {
    *count = (int32_t)read_number(reader);
    if (*count == 0) return NULL;
    Bytes *words = RedisModule_Alloc(*count * sizeof(*words));
    for (int32_t i = 0; i < *count; i++) {
        words[i].size = read_bytes(&(Reader){.at = reader->at, .end = reader->end}).size;
        words[i].data = read_text(reader);
    }
    return words;
}

/* The input's data stays in the server's stretch until the op's result is complete. */
static Tensor *read_tensor(Reader *reader, const char *data) {
    int64_t shape[TENSOR_MAX_DIMS];
    int dtype = (int)read_number(reader), ndim = (int)read_number(reader);
    for (int i = 0; i < ndim; i++) shape[i] = read_number(reader);
    uint64_t offset = (uint64_t)read_number(reader), size = (uint64_t)read_number(reader);
    uint64_t *offsets = dtype_is_string(dtype) ? (uint64_t *)(data + offset + align64(size)) : NULL;
    return tensor_view(dtype, ndim, shape, data + offset, size, offsets);
}

static Op *read_op(Slot *slot) {
    const char *request = servers_stretch(shared) + slot->request;
    Reader reader = {.at = request, .end = request + slot->request_size};
    Runnable *runnable = inside_runnable((uint64_t)read_number(&reader));
    (void)runnable_is_ready(runnable); /* it is: acquires what the loader has set */
    int64_t arrival = read_number(&reader);
    int ninputs = (int)read_number(&reader), noutputs = (int)read_number(&reader);
    Run *run = run_new(1, ninputs + noutputs, ninputs, 0);
    for (int i = 0; i < ninputs; i++) run->slots[i] = read_tensor(&reader, request + align64(slot->request_size));
    Op *op = run_add_op(run, runnable, NULL, ninputs, ninputs, noutputs);
    op->arrival = arrival;
    op->priority = (int32_t)slot->priority;
    op->state->shared = &slot->word;
    op->state->ticket = __atomic_load_n(&slot->word, __ATOMIC_ACQUIRE) & TICKET_MASK;
    if (runnable->kind == KIND_SCRIPT) {
        op->function = read_text(&reader);
        op->keys = read_words(&reader, &op->nkeys);
        op->args = read_words(&reader, &op->nargs);
    }
    op_queue(op, monotonic_ns());
    return op;
}

/* Frees the runs whose results were read. */
static void forget_read_results(void) {
    Run *read = NULL;
    pthread_mutex_lock(&results.mutex);
    for (Run *run = results.first, *before = NULL; run;) {
        Run *next = (Run *)run->waiter.next;
        const Op *op = run->ops;
        if (__atomic_load_n(&slot_of(op)->acked, __ATOMIC_ACQUIRE) - op->state->ticket >= 0) {
            *(before ? (Run **)&before->waiter.next : &results.first) = next;
            if (next == NULL) results.last = before;
            run->waiter.next = (Waiter *)read;
            read = run;
        } else {
            before = run;
        }
        run = next;
    }
    pthread_mutex_unlock(&results.mutex);
    while (read) {
        Run *next = (Run *)read->waiter.next;
        run_unref(read);
        read = next;
    }
}

static void receive(Queue *queue) {
    uint32_t submitted = __atomic_load_n(&shared->submitted, __ATOMIC_ACQUIRE);
    uint32_t next = received;
    for (; next != submitted; next++) {
        queue_receive(queue, read_op(&shared->slots[shared->submissions[next % SLOTS]]));
    }
    __atomic_store_n(&received, next, __ATOMIC_RELEASE);
    uint32_t noted = __atomic_load_n(&shared->unwanted, __ATOMIC_ACQUIRE);
    if (noted != unwanted) queue_receive_unwanted(queue, (int)(noted - unwanted));
    __atomic_store_n(&unwanted, noted, __ATOMIC_RELEASE);
    uint32_t times = __atomic_load_n(&shared->refused, __ATOMIC_ACQUIRE) - refused;
    if (times) queue_receive_full(queue, times == 1 ? __atomic_load_n(&shared->full, __ATOMIC_RELAXED) : ALL_MODELS);
    refused += times;
    forget_read_results();
    if (!__atomic_load_n(&shared->is_idle, __ATOMIC_ACQUIRE)) return;
    __atomic_store_n(&shared->is_idle, 0, __ATOMIC_RELEASE);
    inside_rest();
}

static int is_empty(void) {
    return __atomic_load_n(&shared->submitted, __ATOMIC_ACQUIRE) == __atomic_load_n(&received, __ATOMIC_ACQUIRE);
}

static int is_woken; /* atomic: from within, since the last wait */

static void futex(uint32_t *word, int operation, uint32_t value, const struct timespec *until) {
    syscall(SYS_futex, word, operation, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

/* The server clears process_sleeps after it has changed `submitted` or `unwanted`, and wakes whoever waits for that. */
static void wait_for_server(int64_t deadline) {
    struct timespec until = monotonic_timespec(deadline);
    uint32_t before = __atomic_load_n(&received, __ATOMIC_ACQUIRE),
             noted = __atomic_load_n(&unwanted, __ATOMIC_ACQUIRE);
    __atomic_store_n(&shared->process_sleeps, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&is_woken, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&shared->process_sleeps, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&shared->submitted, __ATOMIC_SEQ_CST) == before &&
           __atomic_load_n(&shared->unwanted, __ATOMIC_SEQ_CST) == noted) {
        futex(&shared->process_sleeps, FUTEX_WAIT_BITSET, 1, deadline ? &until : NULL);
        if (deadline && monotonic_ns() >= deadline) break;
    }
    __atomic_store_n(&shared->process_sleeps, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&is_woken, 0, __ATOMIC_SEQ_CST);
}

static void wake(void) {
    __atomic_store_n(&is_woken, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&shared->process_sleeps, 0, __ATOMIC_SEQ_CST);
    futex(&shared->process_sleeps, FUTEX_WAKE, 1, NULL);
}

const Source inside_source = {.receive = receive, .is_empty = is_empty, .wait = wait_for_server, .wake = wake};

/* ---- results -------------------------------------------------------------------------------------------------------
 */

static void write_output(Writer *writer, const Tensor *tensor) {
    write_number(writer, tensor != NULL);
    if (tensor == NULL) return;
    write_number(writer, tensor->dtype);
    write_number(writer, tensor->ndim);
    for (int i = 0; i < tensor->ndim; i++) write_number(writer, tensor->shape[i]);
    write_number(writer, (int64_t)inside_offset(tensor->data));
    write_number(writer, (int64_t)tensor->size);
    write_number(writer, tensor->offsets ? (int64_t)inside_offset(tensor->offsets) : 0);
}

static void write_result(Writer *writer, const Op *op) {
    const OpState *state = op->state;
    int is_run = op_status(op) != OP_SKIPPED;
    writer->size = 0;
    write_number(writer, is_run);
    if (!is_run) return;
    write_number(writer, state->begun);
    write_number(writer, op->duration);
    write_number(writer, op->input_ns);
    write_number(writer, op->output_ns);
    write_number(writer, state->batch_total);
    write_number(writer, op->is_direct);
    write_number(writer, state->error != NULL);
    write_text(writer, state->error);
    for (int i = 0; i < op->noutputs; i++) write_output(writer, op->outputs[i]);
    write_number(writer, op->tuning != NULL);
    for (size_t i = 0; op->tuning && i < sizeof(Tuning) / sizeof(int64_t); i++) {
        write_number(writer, ((const int64_t *)op->tuning)[i]);
    }
}

void inside_finish(void *waiter) {
    Run *run = waiter;
    Slot *slot = slot_of(run->ops);
    pthread_mutex_lock(&results.mutex);
    write_result(&results.writer, run->ops);
    char *result = inside_alloc(results.writer.size);
    if (result) memcpy(result, results.writer.data, results.writer.size);
    slot->result = result ? inside_offset(result) : 0;
    slot->result_size = result ? results.writer.size : 0; /* the server fails the op */
    run->steps = (struct Step *)result;                   /* freed with the run */
    run->waiter.next = NULL;
    *(results.last ? (Run **)&results.last->waiter.next : &results.first) = run;
    results.last = run;
    uint32_t completed = shared->completed;
    shared->completions[completed % SLOTS] = (uint32_t)(slot - shared->slots);
    __atomic_store_n(&shared->completed, completed + 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&results.mutex);
    if (__atomic_exchange_n(&shared->server_sleeps, 0, __ATOMIC_SEQ_CST)) {
        ssize_t ignored = write(event_fd, "", 1); /* where the pipe is full, the server will look anyway */
        (void)ignored;
    }
}
