/* atomic.c - blocks of commands between which no other command runs (flows.h). Main thread.
 *
 * This is the one place where the main thread waits for Python: TIME_MS in all. The process writes commands into its
 * socket. It names the block in each, and gets answers that name it. So what comes too late, of a block that is over,
 * is known and dropped; between blocks the event loop reads it, so that the process never waits for room. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "flows/flows.h"
#include "redis/clock.h"

#define TIME_MS 100
#define MAX_FRAME (1 << 20) /* bytes, also of an answer */
#define MAX_WORDS 1024

static struct {
    int socket; /* -1: there is no process */
    size_t got; /* bytes of frames that have come */
    char bytes[MAX_FRAME];
    size_t sent, to_send; /* bytes of answers */
    char answers[2 * MAX_FRAME];
} atomic = {.socket = -1};

/* A frame that has come as a whole, in atomic.bytes. */
typedef struct Frame {
    uint32_t block, nwords;
    size_t size;
} Frame;

static uint32_t number_at(size_t at) {
    uint32_t number;
    memcpy(&number, atomic.bytes + at, sizeof(number)); /* both sides are this machine: little endian */
    return number;
}

/* 1: a whole frame; 0: more must come; -1: it is broken. */
static int parse(Frame *frame) {
    size_t at = 8;
    if (atomic.got < at) return 0;
    *frame = (Frame){.block = number_at(0), .nwords = number_at(4)};
    if (frame->nwords > MAX_WORDS) return -1;
    for (uint32_t i = 0; i < frame->nwords; i++) {
        if (atomic.got - at < 4) return 0;
        size_t size = number_at(at);
        at += 4;
        if (size > MAX_FRAME - at || (i + 1 < frame->nwords && MAX_FRAME - at - size < 4)) return -1;
        if (atomic.got - at < size) return 0;
        at += size;
    }
    frame->size = at;
    return 1;
}

static void drop(const Frame *frame) {
    atomic.got -= frame->size;
    memmove(atomic.bytes, atomic.bytes + frame->size, atomic.got);
}

/* Whether bytes have come. A process that has ended has none; its end is told elsewhere. */
static int receive(void) {
    ssize_t got = recv(atomic.socket, atomic.bytes + atomic.got, MAX_FRAME - atomic.got, MSG_DONTWAIT);
    if (got > 0) atomic.got += got;
    if (got == 0) RedisModule_EventLoopDel(atomic.socket, REDISMODULE_EVENTLOOP_READABLE);
    return got > 0;
}

/* What comes between blocks is of none. */
static void receive_late(int fd, void *data, int mask) {
    Frame frame;
    int state = 0;
    if (!receive()) return;
    while ((state = parse(&frame)) == 1) drop(&frame);
    if (state == -1) flow_process_end("it has sent a broken frame");
}

void atomic_open(int socket) {
    atomic.socket = socket;
    atomic.got = atomic.sent = atomic.to_send = 0;
    RedisModule_EventLoopAdd(socket, REDISMODULE_EVENTLOOP_READABLE, receive_late, NULL);
}

void atomic_close(void) {
    if (atomic.socket == -1) return;
    RedisModule_EventLoopDel(atomic.socket, REDISMODULE_EVENTLOOP_READABLE | REDISMODULE_EVENTLOOP_WRITABLE);
    atomic.socket = -1;
}

/* Whether the socket is ready for this before the time is over. */
static int wait_for(short events, int64_t until) {
    for (;;) {
        int64_t left = until - monotonic_ns();
        struct pollfd fd = {.fd = atomic.socket, .events = events};
        struct timespec pause = monotonic_timespec(left > 0 ? left : 0);
        int ready = ppoll(&fd, 1, &pause, NULL);
        if (ready != -1 || errno != EINTR) return ready == 1;
    }
}

/* Sends what the process has room for. */
static void flush(void) {
    while (atomic.sent < atomic.to_send) {
        ssize_t sent = send(atomic.socket, atomic.answers + atomic.sent, atomic.to_send - atomic.sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == -1 && errno == EAGAIN) return;
        if (sent <= 0) break; /* the process has ended; that is told elsewhere */
        atomic.sent += sent;
    }
    atomic.sent = atomic.to_send = 0;
}

static void flush_late(int fd, void *data, int mask) {
    flush();
    if (atomic.to_send == 0) RedisModule_EventLoopDel(atomic.socket, REDISMODULE_EVENTLOOP_WRITABLE);
}

/* The answer of a command, or, with size 0, the sign that the block has begun. What the process has not taken when the
 * time is over it gets between blocks. */
static int send_answer(uint32_t block, const char *bytes, size_t size, int64_t until) {
    uint32_t head[2] = {block, (uint32_t)size};
    if (sizeof(atomic.answers) - atomic.to_send < sizeof(head) + size) {
        flow_process_end("it does not read the answers of atomic blocks");
        return 0;
    }
    memcpy(atomic.answers + atomic.to_send, head, sizeof(head));
    if (size) memcpy(atomic.answers + atomic.to_send + sizeof(head), bytes, size);
    atomic.to_send += sizeof(head) + size;
    for (flush(); atomic.to_send && wait_for(POLLOUT, until);) flush();
    if (atomic.to_send) RedisModule_EventLoopAdd(atomic.socket, REDISMODULE_EVENTLOOP_WRITABLE, flush_late, NULL);
    return 1;
}

static int send_error(uint32_t block, const char *error, int64_t until) {
    char line[256];
    int size = snprintf(line, sizeof(line), "-%s\r\n", error);
    return send_answer(block, line, size, until);
}

static int run(RedisModuleCtx *ctx, const Frame *frame, int64_t until) {
    RedisModuleString *argv[MAX_WORDS];
    size_t at = 8, size = 0;
    for (uint32_t i = 0; i < frame->nwords; i++) {
        argv[i] = RedisModule_CreateString(NULL, atomic.bytes + at + 4, number_at(at));
        at += 4 + number_at(at);
    }
    const char *error;
    RedisModuleCallReply *reply = control_call(ctx, argv, (int)frame->nwords, &error);
    for (uint32_t i = 0; i < frame->nwords; i++) RedisModule_FreeString(NULL, argv[i]);
    const char *bytes = reply ? RedisModule_CallReplyProto(reply, &size) : NULL;
    int is_sent;
    if (bytes == NULL) {
        is_sent = send_error(frame->block, error, until);
    } else if (size > MAX_FRAME) {
        is_sent = send_error(frame->block, "ERR the reply is too long for an atomic block; the command has run", until);
    } else {
        is_sent = send_answer(frame->block, bytes, size, until);
    }
    if (reply) RedisModule_FreeCallReply(reply);
    return is_sent;
}

/* Waits for a frame of this block. 1: it is there; 0: the time is over; -1: it is broken. */
static int next_frame(uint32_t block, Frame *frame, int64_t until) {
    for (;;) {
        int state = parse(frame);
        if (state == -1 || (state == 1 && frame->block == block)) return state;
        if (state == 1) {
            drop(frame);
            continue;
        }
        if (!wait_for(POLLIN, until) || !receive()) return 0;
    }
}

#define LATE "ERR the atomic block took longer than 100 ms: what it has done stays, the rest is refused"

int atomic_run(RedisModuleCtx *ctx, RedisModuleString **argv) {
    long long number;
    int64_t until = monotonic_ns() + TIME_MS * 1000000LL;
    if (!flows_may_wait(ctx, argv)) return REDISMODULE_OK;
    if (RedisModule_StringToLongLong(argv[1], &number) == REDISMODULE_ERR || number < 0 || number > UINT32_MAX) {
        return reply_error(ctx, "a number from 0 to %u is needed", UINT32_MAX);
    }
    uint32_t block = (uint32_t)number;
    int is_there = atomic.socket != -1 && send_answer(block, NULL, 0, until);
    while (is_there) {
        Frame frame;
        int state = next_frame(block, &frame, until);
        if (state == 0) {
            send_error(block, LATE, until);
            return RedisModule_ReplyWithError(ctx, LATE);
        }
        if (state == -1) {
            flow_process_end("it has sent a broken frame");
            break;
        }
        int is_last = frame.nwords == 0;
        is_there = is_last || run(ctx, &frame, until);
        drop(&frame);
        if (is_last) return reply_ok(ctx);
    }
    return reply_error(ctx, "the flow process has ended");
}
