/* command.c - what every command handler needs (command.h). Main thread only. */
#include "redis/command.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

int arg_is(const RedisModuleString *arg, const char *word) {
    size_t len;
    const char *text = RedisModule_StringPtrLen(arg, &len);
    return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

char *arg_copy(const RedisModuleString *arg, uint64_t *size) {
    size_t len;
    const char *text = RedisModule_StringPtrLen(arg, &len);
    char *copy = RedisModule_Alloc(len + 1);
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (size) *size = len;
    return copy;
}

const char *arg_text(const RedisModuleString *arg) { return RedisModule_StringPtrLen(arg, NULL); }

int arg_whole(const RedisModuleString *arg, long long *number) {
    double real;
    if (RedisModule_StringToLongLong(arg, number) == REDISMODULE_OK) return 0;
    if (RedisModule_StringToDouble(arg, &real) == REDISMODULE_ERR || fabs(real) > 1e15 || real != floor(real))
        return -1;
    *number = (long long)real;
    return 0;
}

static char latest_error[4096]; /* that was replied */

/* A client's own bytes may be in the text; a line break would end the reply early. */
static const char *one_line(char *text) {
    for (char *c = text; *c; c++) {
        if (*c == '\r' || *c == '\n') *c = ' ';
    }
    return text;
}

static void format_error(const char *format, va_list args) {
    int prefix = snprintf(latest_error, sizeof(latest_error), "ERR ");
    vsnprintf(latest_error + prefix, sizeof(latest_error) - prefix, format, args);
    one_line(latest_error);
}

static void reply_formatted(RedisModuleCtx *ctx, const char *format, va_list args) {
    format_error(format, args);
    RedisModule_ReplyWithError(ctx, latest_error);
}

char *error_text(const char *format, ...) {
    va_list args;
    va_start(args, format);
    format_error(format, args);
    va_end(args);
    return RedisModule_Strdup(latest_error);
}

int reply_error(RedisModuleCtx *ctx, const char *format, ...) {
    va_list args;
    va_start(args, format);
    reply_formatted(ctx, format, args);
    va_end(args);
    return REDISMODULE_OK;
}

int parse_error(RedisModuleCtx *ctx, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (ctx) reply_formatted(ctx, format, args);
    va_end(args);
    return -1;
}

int wrong_type_error(RedisModuleCtx *ctx, const RedisModuleString *name) {
    snprintf(latest_error, sizeof(latest_error), REDISMODULE_ERRORMSG_WRONGTYPE ": '%s'", arg_text(name));
    RedisModule_ReplyWithError(ctx, one_line(latest_error));
    return -1;
}

int reply_wrong_arity(RedisModuleCtx *ctx, RedisModuleString **argv) {
    return reply_error(ctx, WRONG_ARITY, arg_text(argv[0]));
}

int log_lost_value(RedisModuleCtx *ctx, RedisModuleString **argv) {
    if (wait_mode(ctx) == WAIT_NOT) {
        RedisModule_Log(ctx, "warning", "%s from the AOF or the master cannot be stored at key '%s': %s",
                        arg_text(argv[0]), arg_text(argv[1]), latest_error);
    }
    return REDISMODULE_OK;
}

int refuse_arity(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    reply_wrong_arity(ctx, argv);
    return argc > 1 ? log_lost_value(ctx, argv) : REDISMODULE_OK;
}

int reply_ok(RedisModuleCtx *ctx) { return RedisModule_ReplyWithSimpleString(ctx, "OK"); }

void reply_number(RedisModuleCtx *ctx, const char *field, int64_t number) {
    RedisModule_ReplyWithCString(ctx, field);
    RedisModule_ReplyWithLongLong(ctx, number);
}

void reply_text(RedisModuleCtx *ctx, const char *field, const char *text) {
    RedisModule_ReplyWithCString(ctx, field);
    RedisModule_ReplyWithCString(ctx, text);
}

int parse_reply_words(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const char *data, int *wants_meta,
                      int *wants_data, int *wants_full) {
    *wants_meta = *wants_data = argc == 0;
    if (wants_full) *wants_full = 0;
    for (int i = 0; i < argc; i++) {
        int *wanted = arg_is(argv[i], "META") ? wants_meta : arg_is(argv[i], data) ? wants_data : NULL;
        if (arg_is(argv[i], "FULL")) wanted = wants_full;
        if (wanted == NULL) return parse_error(ctx, "Invalid argument: %s", arg_text(argv[i]));
        *wanted = 1;
    }
    if (wants_full && *wants_full) *wants_meta = 1;
    return 0;
}

/* 1 with the key's value where it is of this type; 0 where the key is empty; -1 where it holds another type. */
static int look_up(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, void **value) {
    *value = NULL;
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    if (key == NULL) return 0;
    int kind = RedisModule_KeyType(key), found = kind != REDISMODULE_KEYTYPE_EMPTY;
    if (type == KEY_OF_HASH ? kind == REDISMODULE_KEYTYPE_HASH : RedisModule_ModuleTypeGetType(key) == type) {
        *value = RedisModule_ModuleTypeGetValue(key);
    } else if (found) {
        found = -1;
    }
    RedisModule_CloseKey(key);
    return found;
}

static void reply_wrong_type(RedisModuleCtx *ctx) {
    strcpy(latest_error, REDISMODULE_ERRORMSG_WRONGTYPE);
    RedisModule_ReplyWithError(ctx, latest_error);
}

void *lookup_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, const char *missing) {
    void *value;
    int found = look_up(ctx, name, type, &value);
    if (found == 0) reply_error(ctx, "%s", missing);
    if (found == -1) reply_wrong_type(ctx);
    return value;
}

int key_accepts(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type) {
    void *value;
    if (look_up(ctx, name, type, &value) >= 0) return 1;
    reply_wrong_type(ctx);
    return 0;
}

/* In a cluster, a slot may move to another master, or the cluster fail, while a client is blocked. */
static const char *slot_refusal(RedisModuleCtx *ctx, RedisModuleString *name) {
    static int in_cluster = -1; /* never changes; asking costs 0.1 us */
    if (in_cluster < 0) in_cluster = (RedisModule_GetContextFlags(ctx) & REDISMODULE_CTX_FLAGS_CLUSTER) != 0;
    if (!in_cluster) return NULL;
    /* The API has no function for slots. But Redis refuses a call where it would redirect a client's command. This one
     * is let through also while the slot is imported, as the client's was after ASKING. Without a payload it fails. */
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "RESTORE-ASKING", "scc", name, "0", "");
    if (reply == NULL && errno == ENOENT) reply = RedisModule_Call(ctx, "EXISTS", "s", name); /* it was renamed */
    if (reply) RedisModule_FreeCallReply(reply);
    if (reply) return NULL;
    if (errno != EPERM) return "CLUSTERDOWN The cluster is down";
    return "TRYAGAIN The slot has moved, or is moving, to another node";
}

const char *key_refusal(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type) {
    void *value;
    const char *refusal = slot_refusal(ctx, name);
    return refusal || look_up(ctx, name, type, &value) != -1 ? refusal : REDISMODULE_ERRORMSG_WRONGTYPE;
}

void key_set_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, void *value) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ | REDISMODULE_WRITE);
    RedisModule_ModuleTypeSetValue(key, type, value);
    RedisModule_CloseKey(key);
}

int find_user(RedisModuleCtx *ctx, RedisModuleUser **user) {
    *user = NULL;
    /* Redis 7.0 crashes when it is asked for the name of a user who is not there. But it checks that before it looks a
     * command up. */
    RedisModule_Call(ctx, "no such command", "C");
    RedisModuleString *name = errno == ENOTSUP ? NULL : RedisModule_GetCurrentUserName(ctx);
    if (name == NULL) return 0;
    *user = RedisModule_GetModuleUserFromUserName(name);
    RedisModule_FreeString(ctx, name);
    return 1;
}

int is_administrator(RedisModuleCtx *ctx) {
    RedisModuleUser *user;
    if (!find_user(ctx, &user) || user == NULL) return 0;
    static const char *words[] = {"CONFIG", "SET", "dir", "."};
    RedisModuleString *command[4];
    for (int i = 0; i < 4; i++) command[i] = RedisModule_CreateString(NULL, words[i], strlen(words[i]));
    int allowed = RedisModule_ACLCheckCommandPermissions(user, command, 4) == REDISMODULE_OK;
    for (int i = 0; i < 4; i++) RedisModule_FreeString(NULL, command[i]);
    RedisModule_FreeModuleUser(user);
    return allowed;
}

int keys_are_permitted(RedisModuleCtx *ctx, RedisModuleString **names, int count, int access) {
    RedisModuleUser *user;
    if (!find_user(ctx, &user)) return 1;
    int permitted = user != NULL;
    for (int i = 0; i < count && permitted; i++) {
        permitted = RedisModule_ACLCheckKeyPermissions(user, names[i], access) == REDISMODULE_OK;
    }
    if (user) RedisModule_FreeModuleUser(user);
    return permitted;
}

/* The API has no function for slots. But Redis refuses a call with keys of several slots. */
int keys_share_slot(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString **names, int count) {
    if (!(RedisModule_GetContextFlags(ctx) & REDISMODULE_CTX_FLAGS_CLUSTER)) return 1;
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "EXISTS", "sv", name, names, (size_t)count);
    int share = reply || errno != EPERM;
    if (reply) RedisModule_FreeCallReply(reply);
    return share;
}

void key_notify(RedisModuleCtx *ctx, RedisModuleString *name, const char *event) {
    RedisModule_NotifyKeyspaceEvent(ctx, REDISMODULE_NOTIFY_MODULE, event, name);
}

WaitMode wait_mode(RedisModuleCtx *ctx) {
    int flags = RedisModule_GetContextFlags(ctx);
    if (flags & (REDISMODULE_CTX_FLAGS_LOADING | REDISMODULE_CTX_FLAGS_REPLICATED)) return WAIT_NOT;
    if (flags & (REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LUA | REDISMODULE_CTX_FLAGS_DENY_BLOCKING)) {
        return WAIT_MAIN_THREAD;
    }
    return WAIT_BLOCK;
}
