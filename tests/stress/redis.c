/* redis.c - the part of Redis that the module sees (redis.h).
 *
 * Locks: unblocked.mutex and oneshots.mutex, as Redis has them, held for a few pointer moves; freeing.mutex, of the
 * lazy-free thread; and loop.mutex, under which the event loop is woken. */
#include "redis.h"

#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define EVENT_EVENTLOOP 15

static pthread_t main_thread;
#define ON_MAIN_THREAD() CHECK(pthread_equal(pthread_self(), main_thread))

void fatal(const char *file, int line, const char *format, ...) {
    static int is_ending;
    while (__atomic_exchange_n(&is_ending, 1, __ATOMIC_RELAXED)) pause(); /* one message is enough */
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

uint32_t below(Random *random, uint32_t limit) {
    uint64_t mixed = random->state += 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return (uint32_t)((mixed ^ mixed >> 31) % limit);
}

int chance(Random *random, int permille) { return (int)below(random, 1000) < permille; }

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static long allocations; /* atomic */

long redis_allocations(void) { return __atomic_load_n(&allocations, __ATOMIC_RELAXED); }

static void *counted(void *memory) {
    if (memory == NULL) FATAL("no memory");
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return memory;
}

static void *fake_Alloc(size_t bytes) { return counted(malloc(bytes ? bytes : 1)); }

static void *fake_Calloc(size_t count, size_t bytes) { return counted(calloc(count ? count : 1, bytes ? bytes : 1)); }

static void fake_Free(void *memory) {
    if (memory) __atomic_sub_fetch(&allocations, 1, __ATOMIC_RELAXED);
    free(memory);
}

static void *fake_Realloc(void *memory, size_t bytes) {
    if (memory == NULL) return fake_Alloc(bytes);
    memory = realloc(memory, bytes ? bytes : 1);
    if (memory == NULL) FATAL("no memory");
    return memory;
}

static char *fake_Strdup(const char *text) { return counted(strdup(text)); }

static size_t fake_MallocSize(void *memory) { return malloc_usable_size(memory); }

/* ---- strings ----------------------------------------------------------------------------------------------------- */

struct RedisModuleString {
    int refs; /* not atomic */
    size_t size;
    char *data;
};

static RedisModuleString *fake_CreateString(RedisModuleCtx *ctx, const char *data, size_t size) {
    (void)ctx;
    RedisModuleString *string = fake_Alloc(sizeof(*string) + size + 1);
    string->refs = 1;
    string->size = size;
    string->data = (char *)(string + 1);
    memcpy(string->data, data, size);
    string->data[size] = '\0';
    return string;
}

static RedisModuleString *fake_CreateStringFromLongLong(RedisModuleCtx *ctx, long long number) {
    char text[32];
    return fake_CreateString(ctx, text, snprintf(text, sizeof(text), "%lld", number));
}

static void fake_FreeString(RedisModuleCtx *ctx, RedisModuleString *string) {
    (void)ctx;
    CHECK(string->refs > 0);
    if (--string->refs == 0) fake_Free(string);
}

static RedisModuleString *fake_HoldString(RedisModuleCtx *ctx, RedisModuleString *string) {
    (void)ctx;
    CHECK(string->refs > 0);
    string->refs++;
    return string;
}

static void fake_TrimStringAllocation(RedisModuleString *string) { CHECK(string->refs > 0); }

static const char *fake_StringPtrLen(const RedisModuleString *string, size_t *size) {
    CHECK(string->refs > 0);
    if (size) *size = string->size;
    return string->data;
}

static int fake_StringToLongLong(const RedisModuleString *string, long long *number) {
    char *end;
    *number = strtoll(string->data, &end, 10);
    return string->size && *end == '\0' ? REDISMODULE_OK : REDISMODULE_ERR;
}

/* ---- dictionaries ------------------------------------------------------------------------------------------------ */

typedef struct Pair {
    char *name;
    size_t size;
    void *value;
} Pair;

struct RedisModuleDict {
    Pair *pairs;
    size_t count;
};

static RedisModuleDict *fake_CreateDict(RedisModuleCtx *ctx) {
    (void)ctx;
    return fake_Calloc(1, sizeof(RedisModuleDict));
}

static void fake_FreeDict(RedisModuleCtx *ctx, RedisModuleDict *dict) {
    (void)ctx;
    for (size_t i = 0; i < dict->count; i++) free(dict->pairs[i].name);
    free(dict->pairs);
    fake_Free(dict);
}

static Pair *find_pair(RedisModuleDict *dict, const RedisModuleString *key) {
    for (size_t i = 0; i < dict->count; i++) {
        Pair *pair = &dict->pairs[i];
        if (pair->size == key->size && memcmp(pair->name, key->data, key->size) == 0) return pair;
    }
    return NULL;
}

static int fake_DictSet(RedisModuleDict *dict, RedisModuleString *key, void *value) {
    if (find_pair(dict, key)) return REDISMODULE_ERR;
    dict->pairs = realloc(dict->pairs, (dict->count + 1) * sizeof(Pair));
    dict->pairs[dict->count++] =
        (Pair){.name = memcpy(malloc(key->size), key->data, key->size), .size = key->size, .value = value};
    return REDISMODULE_OK;
}

static int fake_DictReplace(RedisModuleDict *dict, RedisModuleString *key, void *value) {
    Pair *pair = find_pair(dict, key);
    if (pair == NULL) return fake_DictSet(dict, key, value);
    pair->value = value;
    return REDISMODULE_OK;
}

static void *fake_DictGet(RedisModuleDict *dict, RedisModuleString *key, int *nokey) {
    Pair *pair = find_pair(dict, key);
    if (nokey) *nokey = pair == NULL;
    return pair ? pair->value : NULL;
}

static int fake_DictSetC(RedisModuleDict *dict, void *key, size_t size, void *value) {
    return fake_DictSet(dict, &(RedisModuleString){.data = key, .size = size}, value);
}

static void *fake_DictGetC(RedisModuleDict *dict, void *key, size_t size, int *nokey) {
    return fake_DictGet(dict, &(RedisModuleString){.data = key, .size = size}, nokey);
}

static int fake_DictDelC(RedisModuleDict *dict, void *key, size_t size, void *old) {
    (void)old;
    Pair *pair = find_pair(dict, &(RedisModuleString){.data = key, .size = size});
    if (pair == NULL) return REDISMODULE_ERR;
    free(pair->name);
    *pair = dict->pairs[--dict->count];
    return REDISMODULE_OK;
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

struct RedisModuleType {
    RedisModuleTypeMethods methods;
    char name[16];
};

typedef struct Entry {
    char *name;
    RedisModuleType *type;
    void *value;
    struct Entry *next;
} Entry;

struct RedisModuleKey {
    char *name;
    Entry *entry; /* NULL: empty */
    int writes;
};

#define BUCKETS 1024
static Entry *keyspace[BUCKETS];

static Entry **entry_at(const char *name) {
    uint32_t hash = 5381;
    for (const char *c = name; *c; c++) hash = hash * 33 + (unsigned char)*c;
    Entry **at = &keyspace[hash % BUCKETS];
    while (*at && strcmp((*at)->name, name) != 0) at = &(*at)->next;
    return at;
}

/* Values are freed on a thread of their own, as Redis frees large ones. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t added;
    Entry *first;
} freeing = {.mutex = PTHREAD_MUTEX_INITIALIZER, .added = PTHREAD_COND_INITIALIZER};

static void *lazy_free(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&freeing.mutex);
        while (freeing.first == NULL) pthread_cond_wait(&freeing.added, &freeing.mutex);
        Entry *entry = freeing.first;
        freeing.first = entry->next;
        pthread_mutex_unlock(&freeing.mutex);
        entry->type->methods.free(entry->value);
        free(entry->name);
        free(entry);
    }
    return NULL;
}

static void delete_entry(Entry **at) {
    Entry *entry = *at;
    if (entry == NULL) return;
    *at = entry->next;
    pthread_mutex_lock(&freeing.mutex);
    entry->next = freeing.first;
    freeing.first = entry;
    pthread_cond_signal(&freeing.added);
    pthread_mutex_unlock(&freeing.mutex);
}

void *redis_value(const char *key) {
    Entry *entry = *entry_at(key);
    return entry ? entry->value : NULL;
}

void redis_delete(const char *key) { delete_entry(entry_at(key)); }

static RedisModuleKey *fake_OpenKey(RedisModuleCtx *ctx, RedisModuleString *name, int mode) {
    (void)ctx;
    ON_MAIN_THREAD();
    Entry *entry = *entry_at(name->data);
    int writes = (mode & REDISMODULE_WRITE) != 0;
    if (entry == NULL && !writes) return NULL;
    RedisModuleKey *key = fake_Alloc(sizeof(*key));
    *key = (RedisModuleKey){.name = name->data, .entry = entry, .writes = writes};
    return key;
}

static void fake_CloseKey(RedisModuleKey *key) { fake_Free(key); }

static int fake_KeyType(RedisModuleKey *key) { return key && key->entry ? 6 : REDISMODULE_KEYTYPE_EMPTY; }

static RedisModuleType *fake_ModuleTypeGetType(RedisModuleKey *key) {
    return key && key->entry ? key->entry->type : NULL;
}

static void *fake_ModuleTypeGetValue(RedisModuleKey *key) { return key && key->entry ? key->entry->value : NULL; }

static int fake_DeleteKey(RedisModuleKey *key) {
    CHECK(key->writes);
    delete_entry(entry_at(key->name));
    key->entry = NULL;
    return REDISMODULE_OK;
}

static int fake_ModuleTypeSetValue(RedisModuleKey *key, RedisModuleType *type, void *value) {
    fake_DeleteKey(key);
    Entry *entry = malloc(sizeof(*entry));
    *entry = (Entry){.name = strdup(key->name), .type = type, .value = value};
    *entry_at(key->name) = entry;
    key->entry = entry;
    return REDISMODULE_OK;
}

static RedisModuleType *fake_CreateDataType(RedisModuleCtx *ctx, const char *name, int encver,
                                            RedisModuleTypeMethods *methods) {
    (void)ctx;
    (void)encver;
    RedisModuleType *type = calloc(1, sizeof(*type));
    type->methods = *methods;
    snprintf(type->name, sizeof(type->name), "%s", name);
    return type;
}

/* ---- clients and their replies ----------------------------------------------------------------------------------- */

struct Client {
    RedisModuleString **argv;
    int argc;
    int flags;
    Token *tokens;
    int ntokens;
    long long wanted; /* tokens that the reply still lacks */
    RedisModuleBlockedClient *blocked;
};

struct RedisModuleBlockedClient {
    Client *client; /* NULL: gone */
    RedisModuleCmdFunc reply;
    RedisModuleFreePrivDataFunc free_privdata;
    RedisModuleDisconnectFunc disconnect;
    void *privdata;
    int unblocked; /* atomic: how often */
    RedisModuleBlockedClient *next;
};

struct RedisModuleCtx {
    int (*get_api)(const char *, void *); /* first, where the module looks for it */
    Client *client;
    void *privdata;
    int flags;
};

typedef struct Command {
    const char *name;
    RedisModuleCmdFunc handler;
} Command;
static Command commands[64];
static int ncommands;

static int get_api(const char *name, void *pointer);

Client *client_new(void) { return calloc(1, sizeof(Client)); }

void client_bytes(Client *client, const void *data, size_t size) {
    CHECK(!client->blocked);
    if ((client->argc & (client->argc - 1)) == 0) {
        size_t room = client->argc ? client->argc * 2 : 1;
        client->argv = realloc(client->argv, room * sizeof(*client->argv));
    }
    client->argv[client->argc++] = fake_CreateString(NULL, data, size);
}

void client_word(Client *client, const char *format, ...) {
    char word[256];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(word, sizeof(word), format, args);
    va_end(args);
    client_bytes(client, word, size);
}

static void free_arguments(Client *client) {
    for (int i = 0; i < client->argc; i++) fake_FreeString(NULL, client->argv[i]);
    client->argc = 0;
}

static void free_reply(Client *client) {
    for (int i = 0; i < client->ntokens; i++) free(client->tokens[i].text);
    client->ntokens = 0;
}

static void add_token(RedisModuleCtx *ctx, char type, const char *text, size_t size, long long number) {
    ON_MAIN_THREAD();
    Client *client = ctx->client;
    CHECK(client && client->wanted > 0);
    if ((client->ntokens & (client->ntokens - 1)) == 0) {
        size_t room = client->ntokens ? client->ntokens * 2 : 1;
        client->tokens = realloc(client->tokens, room * sizeof(*client->tokens));
    }
    Token *token = &client->tokens[client->ntokens++];
    *token = (Token){.type = type, .size = size, .number = number};
    if (text) {
        token->text = malloc(size + 1);
        memcpy(token->text, text, size);
        token->text[size] = '\0';
    }
    client->wanted += type == '*' ? number - 1 : -1;
}

int client_is_blocked(const Client *client) { return client->blocked != NULL; }

const Token *client_reply(const Client *client, int *count) {
    if (client->blocked) return NULL;
    CHECK(client->wanted == 0);
    *count = client->ntokens;
    return client->tokens;
}

void client_call(Client *client, int flags) {
    ON_MAIN_THREAD();
    CHECK(!client->blocked && client->argc);
    free_reply(client);
    client->wanted = 1;
    RedisModuleCtx ctx = {.get_api = get_api, .client = client, .flags = flags};
    int found = 0;
    while (found < ncommands && strcasecmp(commands[found].name, client->argv[0]->data) != 0) found++;
    CHECK(found < ncommands);
    CHECK(commands[found].handler(&ctx, client->argv, client->argc) == REDISMODULE_OK);
    CHECK(client->blocked ? client->ntokens == 0 : client->wanted == 0);
    if (!client->blocked) free_arguments(client);
}

void client_close(Client *client) {
    ON_MAIN_THREAD();
    RedisModuleBlockedClient *blocked = client->blocked;
    if (blocked) {
        if (blocked->disconnect) {
            RedisModuleCtx ctx = {.get_api = get_api, .client = client};
            blocked->disconnect(&ctx, blocked);
        }
        blocked->client = NULL;
    }
    free_arguments(client);
    free_reply(client);
    free(client->argv);
    free(client->tokens);
    free(client);
}

static int fake_ReplyWithError(RedisModuleCtx *ctx, const char *error) {
    add_token(ctx, '-', error, strlen(error), 0);
    return REDISMODULE_OK;
}

static int fake_ReplyWithSimpleString(RedisModuleCtx *ctx, const char *text) {
    add_token(ctx, '+', text, strlen(text), 0);
    return REDISMODULE_OK;
}

static int fake_ReplyWithLongLong(RedisModuleCtx *ctx, long long number) {
    add_token(ctx, ':', NULL, 0, number);
    return REDISMODULE_OK;
}

static int fake_ReplyWithDouble(RedisModuleCtx *ctx, double number) {
    char text[64];
    add_token(ctx, ',', text, snprintf(text, sizeof(text), "%.17g", number), 0);
    return REDISMODULE_OK;
}

static int fake_ReplyWithBigNumber(RedisModuleCtx *ctx, const char *digits, size_t len) {
    add_token(ctx, '(', digits, len, 0);
    return REDISMODULE_OK;
}

static int fake_ReplyWithNull(RedisModuleCtx *ctx) {
    add_token(ctx, '_', NULL, 0, 0);
    return REDISMODULE_OK;
}

static int fake_ReplyWithArray(RedisModuleCtx *ctx, long count) {
    CHECK(count >= 0);
    add_token(ctx, '*', NULL, 0, count);
    return REDISMODULE_OK;
}

static int fake_ReplyWithStringBuffer(RedisModuleCtx *ctx, const char *data, size_t size) {
    add_token(ctx, '$', data, size, 0);
    return REDISMODULE_OK;
}

static int fake_ReplyWithCString(RedisModuleCtx *ctx, const char *text) {
    return fake_ReplyWithStringBuffer(ctx, text, strlen(text));
}

static int fake_ReplyWithString(RedisModuleCtx *ctx, RedisModuleString *string) {
    return fake_ReplyWithStringBuffer(ctx, string->data, string->size);
}

/* ---- the event loop ---------------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    int is_woken;
} loop = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void wake(void) {
    pthread_mutex_lock(&loop.mutex);
    loop.is_woken = 1;
    pthread_cond_signal(&loop.woken);
    pthread_mutex_unlock(&loop.mutex);
}

static struct {
    pthread_mutex_t mutex;
    RedisModuleBlockedClient *first, *last;
} unblocked = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static RedisModuleBlockedClient *fake_BlockClient(RedisModuleCtx *ctx, RedisModuleCmdFunc reply,
                                                  RedisModuleCmdFunc timeout, RedisModuleFreePrivDataFunc free_privdata,
                                                  long long timeout_ms) {
    ON_MAIN_THREAD();
    CHECK(timeout_ms == 0 && ctx->client->blocked == NULL); /* nobody calls CLIENT UNBLOCK here */
    RedisModuleBlockedClient *blocked = fake_Calloc(1, sizeof(*blocked));
    blocked->client = ctx->client;
    blocked->reply = reply;
    blocked->free_privdata = free_privdata;
    ctx->client->blocked = blocked;
    return blocked;
}

static int fake_UnblockClient(RedisModuleBlockedClient *blocked, void *privdata) {
    if (__atomic_add_fetch(&blocked->unblocked, 1, __ATOMIC_RELAXED) != 1) FATAL("a client was unblocked twice");
    pthread_mutex_lock(&unblocked.mutex);
    blocked->privdata = privdata;
    blocked->next = NULL;
    if (unblocked.last) {
        unblocked.last->next = blocked;
    } else {
        unblocked.first = blocked;
    }
    unblocked.last = blocked;
    pthread_mutex_unlock(&unblocked.mutex);
    wake();
    return REDISMODULE_OK;
}

static void handle_unblocked(RedisModuleBlockedClient *blocked) {
    Client *client = blocked->client;
    RedisModuleCtx ctx = {.get_api = get_api, .client = client, .privdata = blocked->privdata};
    if (client) {
        if (blocked->reply) CHECK(blocked->reply(&ctx, client->argv, client->argc) == REDISMODULE_OK);
        CHECK(client->wanted == 0);
    }
    if (blocked->privdata && blocked->free_privdata) blocked->free_privdata(&ctx, blocked->privdata);
    if (client) {
        client->blocked = NULL;
        free_arguments(client);
    }
    fake_Free(blocked);
}

static void handle_all_unblocked(void) {
    for (;;) {
        pthread_mutex_lock(&unblocked.mutex);
        RedisModuleBlockedClient *blocked = unblocked.first;
        if (blocked) unblocked.first = blocked->next;
        if (unblocked.first == NULL) unblocked.last = NULL;
        pthread_mutex_unlock(&unblocked.mutex);
        if (blocked == NULL) return;
        handle_unblocked(blocked);
    }
}

static void *fake_GetBlockedClientPrivateData(RedisModuleCtx *ctx) { return ctx->privdata; }

static void fake_SetDisconnectCallback(RedisModuleBlockedClient *blocked, RedisModuleDisconnectFunc callback) {
    ON_MAIN_THREAD();
    blocked->disconnect = callback;
}

static int fake_BlockedClientMeasureTime(RedisModuleBlockedClient *blocked) {
    CHECK(__atomic_load_n(&blocked->unblocked, __ATOMIC_RELAXED) == 0);
    return REDISMODULE_OK;
}

typedef struct Oneshot {
    RedisModuleEventLoopOneShotFunc callback;
    void *data;
    struct Oneshot *next;
} Oneshot;

static struct {
    pthread_mutex_t mutex;
    Oneshot *first, *last;
} oneshots = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static int fake_EventLoopAddOneShot(RedisModuleEventLoopOneShotFunc callback, void *data) {
    Oneshot *new = malloc(sizeof(*new));
    *new = (Oneshot){.callback = callback, .data = data};
    pthread_mutex_lock(&oneshots.mutex);
    if (oneshots.last) {
        oneshots.last->next = new;
    } else {
        oneshots.first = new;
    }
    oneshots.last = new;
    pthread_mutex_unlock(&oneshots.mutex);
    wake();
    return REDISMODULE_OK;
}

/* A descriptor that the event loop watches. */
typedef struct Watched {
    int fd;
    RedisModuleEventLoopFunc callback;
    void *data;
    sem_t handled;
} Watched;

static void handle_watched(void *data) {
    Watched *watched = data;
    watched->callback(watched->fd, watched->data, REDISMODULE_EVENTLOOP_READABLE);
    sem_post(&watched->handled);
}

static void *watch(void *data) {
    Watched *watched = data;
    struct pollfd fd = {.fd = watched->fd, .events = POLLIN};
    for (;;) {
        if (poll(&fd, 1, -1) != 1) continue;
        fake_EventLoopAddOneShot(handle_watched, watched);
        sem_wait(&watched->handled);
    }
    return NULL;
}

static int fake_EventLoopAdd(int fd, int mask, RedisModuleEventLoopFunc callback, void *data) {
    CHECK(mask == REDISMODULE_EVENTLOOP_READABLE);
    Watched *watched = malloc(sizeof(*watched));
    *watched = (Watched){.fd = fd, .callback = callback, .data = data};
    sem_init(&watched->handled, 0, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, watch, watched) == 0);
    pthread_detach(thread);
    return REDISMODULE_OK;
}

static void call_oneshots(void) {
    pthread_mutex_lock(&oneshots.mutex);
    Oneshot *next = oneshots.first;
    oneshots.first = oneshots.last = NULL;
    pthread_mutex_unlock(&oneshots.mutex);
    while (next) {
        Oneshot *called = next;
        next = called->next;
        called->callback(called->data);
        free(called);
    }
}

typedef struct Timer {
    RedisModuleTimerID id;
    int64_t moment;
    RedisModuleTimerProc callback;
    void *data;
    struct Timer *next;
} Timer;
static Timer *timers; /* the next one first */

static RedisModuleCtx loop_context;

static RedisModuleTimerID fake_CreateTimer(RedisModuleCtx *ctx, mstime_t period, RedisModuleTimerProc callback,
                                           void *data) {
    (void)ctx;
    ON_MAIN_THREAD();
    static RedisModuleTimerID last_id;
    Timer *new = malloc(sizeof(*new));
    *new = (Timer){.id = ++last_id, .moment = now_ns() + period * 1000000, .callback = callback, .data = data};
    Timer **at = &timers;
    while (*at && (*at)->moment <= new->moment) at = &(*at)->next;
    new->next = *at;
    *at = new;
    return new->id;
}

static int fake_StopTimer(RedisModuleCtx *ctx, RedisModuleTimerID id, void **data) {
    (void)ctx;
    ON_MAIN_THREAD();
    Timer **at = &timers;
    while (*at && (*at)->id != id) at = &(*at)->next;
    Timer *timer = *at;
    if (timer == NULL) FATAL("a timer was stopped that is not set");
    if (data) *data = timer->data;
    *at = timer->next;
    free(timer);
    return REDISMODULE_OK;
}

static void call_timers(void) {
    int64_t now = now_ns();
    while (timers && timers->moment <= now) {
        Timer *timer = timers;
        timers = timer->next;
        timer->callback(&loop_context, timer->data);
        free(timer);
    }
}

/* Who asked to be called before the loop sleeps. Main thread only. */
static RedisModuleEventCallback before_sleep;

static int fake_SubscribeToServerEvent(RedisModuleCtx *ctx, RedisModuleEvent event, RedisModuleEventCallback callback) {
    (void)ctx;
    ON_MAIN_THREAD();
    if (event.id == EVENT_EVENTLOOP) before_sleep = callback;
    return REDISMODULE_OK;
}

/* In the order of newer servers: commands, which the caller sends between two turns, come between what the module does
 * before the loop sleeps and the reply callbacks of the clients that it unblocks there. */
void redis_turn(int64_t until) {
    ON_MAIN_THREAD();
    call_timers();
    handle_all_unblocked();
    if (before_sleep) before_sleep(&loop_context, (RedisModuleEvent){.id = EVENT_EVENTLOOP, .dataver = 1}, 0, NULL);
    if (timers && timers->moment < until) until = timers->moment;
    struct timespec moment = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    pthread_mutex_lock(&loop.mutex);
    int failed = 0;
    while (!loop.is_woken && !failed) failed = pthread_cond_timedwait(&loop.woken, &loop.mutex, &moment);
    loop.is_woken = 0;
    pthread_mutex_unlock(&loop.mutex);
    if (before_sleep) before_sleep(&loop_context, (RedisModuleEvent){.id = EVENT_EVENTLOOP, .dataver = 1}, 1, NULL);
    call_oneshots();
}

/* ---- surroundings ------------------------------------------------------------------------------------------------ */

static int is_paused;

void redis_pause(int paused) { is_paused = paused; }

static int fake_AvoidReplicaTraffic(void) {
    ON_MAIN_THREAD();
    return is_paused;
}

static int fake_Replicate(RedisModuleCtx *ctx, const char *command, const char *format, ...) {
    (void)ctx;
    (void)command;
    (void)format;
    ON_MAIN_THREAD();
    CHECK(!is_paused);
    return REDISMODULE_OK;
}

static int fake_ReplicateVerbatim(RedisModuleCtx *ctx) {
    (void)ctx;
    ON_MAIN_THREAD();
    return REDISMODULE_OK;
}

static int fake_CreateCommand(RedisModuleCtx *ctx, const char *name, RedisModuleCmdFunc handler, const char *flags,
                              int first, int last, int step) {
    (void)ctx;
    (void)flags;
    (void)first;
    (void)last;
    (void)step;
    CHECK((size_t)ncommands < sizeof(commands) / sizeof(commands[0]));
    commands[ncommands++] = (Command){.name = name, .handler = handler};
    return REDISMODULE_OK;
}

static int fake_GetServerVersion(void) { return 0x00070000; }
static int fake_GetTypeMethodVersion(void) { return 4; }
static int fake_GetContextFlags(RedisModuleCtx *ctx) { return ctx->flags; }

static void fake_Log(RedisModuleCtx *ctx, const char *level, const char *format, ...) {
    (void)ctx;
    if (strcmp(level, "warning") != 0) return;
    va_list args;
    va_start(args, format);
    fputs("log: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static RedisModuleString *fake_GetCurrentUserName(RedisModuleCtx *ctx) { return fake_CreateString(ctx, "default", 7); }

static RedisModuleCtx *fake_GetDetachedThreadSafeContext(RedisModuleCtx *ctx) {
    (void)ctx;
    return &loop_context;
}

static int no_error(void) { return REDISMODULE_OK; }

static void *nothing(void) { return NULL; }

static void *something(void) { return &loop_context; }

static void not_there(void) {
    FATAL("the module called a function that this program does not have: tell redis.c about it");
}

static int get_api(const char *name, void *pointer) {
#define HAVE(known) {"RedisModule_" #known, (void (*)(void))fake_##known}
#define ANSWER(known, answer)                                                                                          \
    {                                                                                                                  \
        "RedisModule_" #known, (void (*)(void))(answer)                                                                \
    }
    static const struct {
        const char *name;
        void (*function)(void);
    } known[] = {
        HAVE(Alloc),
        HAVE(Calloc),
        HAVE(Realloc),
        HAVE(Free),
        HAVE(Strdup),
        HAVE(MallocSize),
        ANSWER(TryAlloc, fake_Alloc),
        ANSWER(TryCalloc, fake_Calloc),
        HAVE(CreateString),
        HAVE(CreateStringFromLongLong),
        HAVE(FreeString),
        HAVE(HoldString),
        HAVE(TrimStringAllocation),
        HAVE(StringPtrLen),
        HAVE(StringToLongLong),
        HAVE(CreateDict),
        HAVE(FreeDict),
        HAVE(DictSet),
        HAVE(DictReplace),
        HAVE(DictGet),
        HAVE(DictSetC),
        HAVE(DictGetC),
        HAVE(DictDelC),
        HAVE(OpenKey),
        HAVE(CloseKey),
        HAVE(KeyType),
        HAVE(DeleteKey),
        HAVE(ModuleTypeGetType),
        HAVE(ModuleTypeGetValue),
        HAVE(ModuleTypeSetValue),
        HAVE(CreateDataType),
        HAVE(ReplyWithError),
        HAVE(ReplyWithSimpleString),
        HAVE(ReplyWithLongLong),
        HAVE(ReplyWithDouble),
        HAVE(ReplyWithBigNumber),
        HAVE(ReplyWithNull),
        HAVE(ReplyWithArray),
        HAVE(ReplyWithStringBuffer),
        HAVE(ReplyWithCString),
        HAVE(ReplyWithString),
        HAVE(BlockClient),
        HAVE(UnblockClient),
        HAVE(GetBlockedClientPrivateData),
        HAVE(SetDisconnectCallback),
        ANSWER(BlockedClientMeasureTimeStart, fake_BlockedClientMeasureTime),
        ANSWER(BlockedClientMeasureTimeEnd, fake_BlockedClientMeasureTime),
        HAVE(EventLoopAddOneShot),
        HAVE(EventLoopAdd),
        HAVE(CreateTimer),
        HAVE(SubscribeToServerEvent),
        HAVE(StopTimer),
        HAVE(AvoidReplicaTraffic),
        HAVE(Replicate),
        HAVE(ReplicateVerbatim),
        HAVE(CreateCommand),
        HAVE(GetServerVersion),
        HAVE(GetTypeMethodVersion),
        HAVE(GetContextFlags),
        HAVE(Log),
        HAVE(GetCurrentUserName),
        HAVE(GetDetachedThreadSafeContext),
        ANSWER(SetModuleAttribs, no_error),
        ANSWER(SetModuleOptions, no_error),
        ANSWER(SetCommandInfo, no_error),
        ANSWER(RegisterNumericConfig, no_error),
        ANSWER(RegisterStringConfig, no_error),
        ANSWER(RegisterEnumConfig, no_error),
        ANSWER(LoadConfigs, no_error),
        ANSWER(RegisterInfoFunc, no_error),
        ANSWER(GetSelectedDb, no_error), /* 0 */
        ANSWER(SelectDb, no_error),
        ANSWER(NotifyKeyspaceEvent, no_error),
        ANSWER(GetClientId, no_error),
        ANSWER(LatencyAddSample, no_error),
        ANSWER(DeauthenticateAndCloseClient, no_error),
        ANSWER(IsModuleNameBusy, no_error),
        ANSWER(IsKeysPositionRequest, no_error),
        ANSWER(Call, nothing),
        ANSWER(GetCommand, something),
    };
    void (*function)(void) = not_there;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(known[i].name, name) == 0) function = known[i].function;
    }
    /* Not all servers have these. */
    if (strstr(name, "ACLCategor")) return REDISMODULE_ERR;
    memcpy(pointer, &function, sizeof(function));
    return REDISMODULE_OK;
}

int RedisModule_OnLoad(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

int redis_load(const char **options, int count) {
    main_thread = pthread_self();
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&loop.woken, &monotonic);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, lazy_free, NULL) == 0);
    pthread_detach(thread);

    loop_context.get_api = get_api;
    RedisModuleString *argv[32];
    CHECK(count <= 32);
    for (int i = 0; i < count; i++) argv[i] = fake_CreateString(NULL, options[i], strlen(options[i]));
    RedisModuleCtx ctx = {.get_api = get_api};
    int result = RedisModule_OnLoad(&ctx, argv, count);
    for (int i = 0; i < count; i++) fake_FreeString(NULL, argv[i]);
    return result;
}
