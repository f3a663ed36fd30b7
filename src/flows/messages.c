/* messages.c - what waits for the flow process, and the clients that wait for its answers (flows.h). Main thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "flows/flows.h"
#include "redis/clock.h"
#include "run/waiter.h"

#define MAX_REQUESTS 10000
#define MAX_EVENTS 100000
#define MAX_BYTES (64 << 20) /* of either */
#define MAX_AT_ONCE 1000     /* messages */
#define BYTES_AT_ONCE (4 << 20)
#define MAX_DEPTH 32 /* of arrays in an answer */
#define LOG_PAUSE_NS 10000000000LL
#define BUCKETS 1024

/* A client that waits for the answer to its command. */
typedef struct Request {
    Waiter waiter; /* first */
    uint64_t id;
    uint64_t size;              /* of its words */
    uint64_t round;             /* of NEXT, that has handed it over; 0: none */
    RedisModuleString **tokens; /* the answer */
    int ntokens;
    char *error; /* instead of one */
    struct Request *next;
} Request;

typedef struct Message {
    const char *kind;
    uint64_t id; /* of the request; 0: an event */
    int db;
    int nwords;
    uint64_t size;
    struct Message *next;
    RedisModuleString *words[]; /* of a request: the user, then the command's; else what follows db */
} Message;

static struct {
    Message *first, *last;
    int64_t events, dropped;
    uint64_t event_bytes;
    int64_t logged;           /* ns */
    RedisModuleDict *streams; /* those that wait: db and key */
    int has_missed;           /* streams: they are to be looked for */
    int is_worked_on;         /* the process has messages, and has not asked for more */
    int has_asked;            /* since messages_are_stuck was called */
} queue;

static struct {
    Request *table[BUCKETS]; /* by id */
    int64_t count;
    uint64_t bytes, last_id;
} requests;

static Waiter *next; /* the connection that waits for messages; NULL: none */
static struct {
    uint64_t client, count;
} rounds; /* of NEXT: the latest client, and how many times it was answered */

MessageFigures messages_figures(void) {
    return (MessageFigures){.requests = requests.count, .events = queue.events, .dropped = queue.dropped};
}

static uint64_t size_of(const RedisModuleString *string) {
    size_t size;
    RedisModule_StringPtrLen(string, &size);
    return size;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static Request **find(uint64_t id) {
    Request **at = &requests.table[id % BUCKETS];
    while (*at && (*at)->id != id) at = &(*at)->next;
    return at;
}

/* Nobody can answer it any more. */
static void take_out(Request **at) {
    Request *request = *at;
    *at = request->next;
    requests.count--;
    requests.bytes -= request->size;
}

static void request_gone(Waiter *waiter) {
    Request **at = find(((Request *)waiter)->id);
    if (*at) take_out(at);
}

static void free_request(RedisModuleCtx *ctx, Waiter *waiter) {
    Request *request = (Request *)waiter;
    for (int i = 0; i < request->ntokens; i++) RedisModule_FreeString(NULL, request->tokens[i]);
    RedisModule_Free(request->tokens);
    RedisModule_Free(request->error);
    RedisModule_Free(request);
}

static void fail(Request **at, const char *error) {
    Request *request = *at;
    take_out(at);
    request->error = RedisModule_Strdup(error);
    waiter_end(&request->waiter, 0);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* Its number, or -1 where the text is none from 0 to `most`. */
static int count_of(const char *text, int most) {
    char *end;
    long count = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : -1;
    return count >= 0 && count <= most && *end == '\0' ? (int)count : -1;
}

/* The text ends with a NUL. */
static int integer_of(const char *text, size_t size, long long *number) {
    char *end;
    if (size == 0 || size > 20 || (*text != '-' && (*text < '0' || *text > '9'))) return 0;
    errno = 0;
    *number = strtoll(text, &end, 10);
    return errno == 0 && end == text + size;
}

/* A status or error is one line. */
static int is_line(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\r' || text[i] == '\n' || text[i] == '\0') return 0;
    }
    return size > 1;
}

static int token_is_right(RedisModuleString *token, int most) {
    size_t size;
    const char *text = RedisModule_StringPtrLen(token, &size);
    long long number;
    switch (size ? text[0] : '\0') {
    case '*': return count_of(text + 1, most) != -1;
    case '$': return 1;
    case ':': return integer_of(text + 1, size - 1, &number);
    case '+':
    case '-': return is_line(text, size);
    default: return size == 1 && text[0] == '_';
    }
}

/* Whether they are one value. What is begun must be ended: a client would wait for the rest for ever. */
static int tokens_are_right(RedisModuleString **tokens, int count) {
    int left[MAX_DEPTH], depth = 0;
    for (int i = 0; i < count; i++) {
        if ((i && depth == 0) || !token_is_right(tokens[i], count)) return 0;
        if (depth) left[depth - 1]--;
        const char *text = arg_text(tokens[i]);
        int elements = text[0] == '*' ? count_of(text + 1, count) : 0;
        if (elements && depth == MAX_DEPTH) return 0;
        if (elements) left[depth++] = elements;
        while (depth && left[depth - 1] == 0) depth--;
    }
    return count > 0 && depth == 0;
}

static void reply_token(RedisModuleCtx *ctx, RedisModuleString *token) {
    size_t size;
    const char *text = RedisModule_StringPtrLen(token, &size);
    long long number = 0;
    switch (text[0]) {
    case '*': RedisModule_ReplyWithArray(ctx, atol(text + 1)); return;
    case '$': RedisModule_ReplyWithStringBuffer(ctx, text + 1, size - 1); return;
    case ':':
        integer_of(text + 1, size - 1, &number);
        RedisModule_ReplyWithLongLong(ctx, number);
        return;
    case '+': RedisModule_ReplyWithSimpleString(ctx, text + 1); return;
    case '-': RedisModule_ReplyWithError(ctx, text + 1); return;
    default: RedisModule_ReplyWithNull(ctx);
    }
}

static int answer(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const Request *request = RedisModule_GetBlockedClientPrivateData(ctx);
    if (request->error) return RedisModule_ReplyWithError(ctx, request->error);
    for (int i = 0; i < request->ntokens; i++) reply_token(ctx, request->tokens[i]);
    return REDISMODULE_OK;
}

int messages_reply(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    long long id;
    if (argc < 4 || RedisModule_StringToLongLong(argv[2], &id) == REDISMODULE_ERR) {
        return reply_error(ctx, "REPLY id token [token ...] is needed");
    }
    Request **at = find((uint64_t)id), *request = *at;
    int is_right = tokens_are_right(argv + 3, argc - 3);
    if (request && !is_right) fail(at, "ERR the flow process has sent a broken reply");
    if (request && is_right) {
        take_out(at);
        request->ntokens = argc - 3;
        request->tokens = RedisModule_Alloc(request->ntokens * sizeof(*request->tokens));
        for (int i = 0; i < request->ntokens; i++) request->tokens[i] = RedisModule_HoldString(NULL, argv[i + 3]);
        waiter_end(&request->waiter, 0);
    }
    return is_right ? reply_ok(ctx) : reply_error(ctx, "the tokens of the reply are broken");
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static void free_message(Message *message) {
    for (int i = 0; i < message->nwords; i++) RedisModule_FreeString(NULL, message->words[i]);
    RedisModule_Free(message);
}

static Message *new_message(const char *kind, uint64_t id, int db, int nwords) {
    Message *message = RedisModule_Calloc(1, sizeof(*message) + nwords * sizeof(message->words[0]));
    message->kind = kind;
    message->id = id;
    message->db = db;
    message->nwords = nwords;
    return message;
}

static void append(Message *message) {
    *(queue.last ? &queue.last->next : &queue.first) = message;
    queue.last = message;
    if (next == NULL) return;
    Waiter *waiter = next;
    next = NULL;
    waiter_end(waiter, 0);
}

static int is_stream(const Message *message) { return message->id == 0 && message->nwords == 1; }

/* The name of a stream in the dictionary of those that wait; the caller frees it. */
static char *stream_name(int db, const RedisModuleString *key, size_t *size) {
    const char *text = RedisModule_StringPtrLen(key, size);
    char *name = RedisModule_Alloc(sizeof(db) + *size);
    memcpy(name, &db, sizeof(db));
    memcpy(name + sizeof(db), text, *size);
    *size += sizeof(db);
    return name;
}

static void forget_stream(const Message *message) {
    size_t size;
    char *name = stream_name(message->db, message->words[0], &size);
    RedisModule_DictDelC(queue.streams, name, size, NULL);
    RedisModule_Free(name);
}

/* NULL: none waits. */
static Message *take_first(void) {
    Message *message = queue.first;
    if (message == NULL) return NULL;
    queue.first = message->next;
    if (queue.first == NULL) queue.last = NULL;
    if (message->id) return message;
    queue.events--;
    queue.event_bytes -= message->size;
    if (is_stream(message)) forget_stream(message);
    return message;
}

static void add_event(Message *message) {
    message->size = sizeof(*message);
    for (int i = 0; i < message->nwords; i++) message->size += size_of(message->words[i]);
    queue.events++;
    queue.event_bytes += message->size;
    append(message);
}

static int drops_event(void) {
    if (queue.events < MAX_EVENTS && queue.event_bytes < MAX_BYTES) return 0;
    queue.dropped++;
    if (queue.logged == 0 || monotonic_ns() - queue.logged > LOG_PAUSE_NS) {
        RedisModule_Log(log_context, "warning",
                        "flows: too many events wait for the flow process, %lld have been dropped",
                        (long long)queue.dropped);
        queue.logged = monotonic_ns();
    }
    return 1;
}

/* Instead of each stream that may have changed. */
static void append_missed(void) {
    queue.has_missed = 0;
    add_event(new_message("missed", 0, 0, 0));
}

RedisModuleString *flows_copy(const RedisModuleString *string) {
    size_t size;
    const char *bytes = RedisModule_StringPtrLen(string, &size);
    return RedisModule_CreateString(NULL, bytes, size);
}

void messages_add_event(int db, const char *event, const RedisModuleString *key) {
    if (drops_event()) return;
    Message *message = new_message("event", 0, db, 2);
    message->words[0] = RedisModule_CreateString(NULL, event, strlen(event));
    message->words[1] = flows_copy(key);
    add_event(message);
}

void messages_add_stream(int db, const RedisModuleString *key) {
    if (queue.streams == NULL) queue.streams = RedisModule_CreateDict(NULL);
    size_t size;
    char *name = stream_name(db, key, &size);
    int is_new = RedisModule_DictGetC(queue.streams, name, size, NULL) == NULL;
    if (is_new && drops_event()) {
        is_new = 0;
        queue.has_missed = 1;
    }
    if (is_new) RedisModule_DictSetC(queue.streams, name, size, &queue);
    RedisModule_Free(name);
    if (!is_new) return;
    Message *message = new_message("stream", 0, db, 1);
    message->words[0] = flows_copy(key);
    add_event(message);
}

void messages_miss_streams(void) {
    queue.has_missed = 1;
    if (queue.first == NULL) append_missed();
}

static RedisModuleString *name_of_user(RedisModuleCtx *ctx) {
    RedisModuleUser *user;
    int is_there = find_user(ctx, &user) && user;
    if (user) RedisModule_FreeModuleUser(user);
    return is_there ? RedisModule_GetCurrentUserName(ctx) : NULL;
}

int messages_pass(RedisModuleCtx *ctx, const char *kind, RedisModuleString **argv, int argc) {
    uint64_t size = 0;
    for (int i = 0; i < argc; i++) size += size_of(argv[i]) + sizeof(RedisModuleString *);
    if (requests.count >= MAX_REQUESTS || requests.bytes + size > MAX_BYTES) {
        return RedisModule_ReplyWithError(ctx, "BUSY too many commands wait for the flow process, or too long ones; "
                                               "try again later");
    }
    RedisModuleString *user = name_of_user(ctx);
    if (user == NULL) return RedisModule_ReplyWithError(ctx, "NOPERM flows need a user whom ACL knows");
    Request *request = RedisModule_Calloc(1, sizeof(*request));
    request->waiter = (Waiter){.gone = request_gone, .freed = free_request};
    request->id = ++requests.last_id;
    request->size = size;
    if (waiter_block(ctx, &request->waiter, answer) == -1) {
        RedisModule_FreeString(ctx, user);
        RedisModule_Free(request);
        return REDISMODULE_OK;
    }
    *find(request->id) = request;
    requests.count++;
    requests.bytes += size;
    Message *message = new_message(kind, request->id, request->waiter.db, argc + 1);
    message->words[0] = user;
    for (int i = 0; i < argc; i++) message->words[i + 1] = RedisModule_HoldString(NULL, argv[i]);
    message->size = size;
    append(message);
    flow_process_ask();
    waiter_begin(&request->waiter);
    return REDISMODULE_OK;
}

void messages_fail(const char *error) {
    next = NULL; /* that connection is being closed: what comes now is for the next process */
    for (Message *message; (message = take_first());) free_message(message);
    queue.is_worked_on = 0;
    for (int i = 0; i < BUCKETS; i++) {
        while (requests.table[i]) fail(&requests.table[i], error);
    }
}

/* ---- NEXT -------------------------------------------------------------------------------------------------------- */

static void reply_message(RedisModuleCtx *ctx, const Message *message) {
    RedisModule_ReplyWithArray(ctx, 2 + message->nwords + (message->id != 0));
    RedisModule_ReplyWithCString(ctx, message->kind);
    int first = 0;
    if (message->id) {
        RedisModule_ReplyWithLongLong(ctx, (long long)message->id);
        RedisModule_ReplyWithString(ctx, message->words[first++]); /* the user */
    }
    RedisModule_ReplyWithLongLong(ctx, message->db);
    for (int i = first; i < message->nwords; i++) RedisModule_ReplyWithString(ctx, message->words[i]);
}

static int reply_messages(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    long count = 0;
    uint64_t bytes = 0;
    RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
    rounds.count++;
    while (count < MAX_AT_ONCE && bytes < BYTES_AT_ONCE && queue.first) {
        Message *message = take_first();
        Request *request = message->id ? *find(message->id) : NULL;
        if (request) request->round = rounds.count;
        if (message->id == 0 || request) { /* else the client has left */
            reply_message(ctx, message);
            bytes += message->size;
            count++;
        }
        free_message(message);
    }
    RedisModule_ReplySetArrayLength(ctx, count);
    queue.is_worked_on = 1;
    if (queue.first == NULL && queue.has_missed) append_missed();
    return REDISMODULE_OK;
}

static void next_gone(Waiter *waiter) {
    if (next == waiter) next = NULL;
}

static void free_next(RedisModuleCtx *ctx, Waiter *waiter) { RedisModule_Free(waiter); }

/* A connection may break before the process has read its last messages: whoever waits for them is told. */
static void fail_last_round(void) {
    for (int i = 0; i < BUCKETS; i++) {
        for (Request **at = &requests.table[i]; *at;) {
            if ((*at)->round == 0 || (*at)->round != rounds.count) {
                at = &(*at)->next;
            } else {
                fail(at, "ERR the connection of the flow process was lost: the command may have run or not");
            }
        }
    }
}

int messages_are_stuck(void) {
    int are = (queue.first || queue.is_worked_on) && !queue.has_asked;
    queue.has_asked = 0;
    return are;
}

int messages_next(RedisModuleCtx *ctx) {
    uint64_t client = RedisModule_GetClientId(ctx);
    if (client != rounds.client && next == NULL) fail_last_round();
    if (next == NULL) rounds.client = client;
    queue.has_asked = 1;
    queue.is_worked_on = 0;
    if (queue.first) return reply_messages(ctx, NULL, 0);
    if (next) return reply_error(ctx, "another connection waits for messages");
    Waiter *waiter = RedisModule_Calloc(1, sizeof(*waiter));
    *waiter = (Waiter){.gone = next_gone, .freed = free_next};
    if (waiter_block(ctx, waiter, reply_messages) == -1) {
        RedisModule_Free(waiter);
    } else {
        next = waiter;
    }
    return REDISMODULE_OK;
}
