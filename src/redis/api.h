/* api.h - the part of the Redis module API that we use, declared here.
 *
 * No package ships redismodule.h, so the functions are listed once, in REDIS_FUNCTIONS below, and bound by name when
 * the module loads. Names and meanings are those of the Redis documentation ("Modules API reference"). A function
 * listed as OPTIONAL may be absent on the servers we support (7.0.6 and later, Valkey): test it before the call. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REDISMODULE_POSTPONED_LEN -1
#define REDISMODULE_OK 0
#define REDISMODULE_ERR 1
#define REDISMODULE_APIVER_1 1

#define REDISMODULE_READ (1 << 0)
#define REDISMODULE_WRITE (1 << 1)
#define REDISMODULE_KEYTYPE_EMPTY 0
#define REDISMODULE_KEYTYPE_STRING 1
#define REDISMODULE_KEYTYPE_LIST 2
#define REDISMODULE_KEYTYPE_HASH 3
#define REDISMODULE_KEYTYPE_STREAM 7
#define REDISMODULE_HASH_NONE 0
#define REDISMODULE_STREAM_ITERATOR_EXCLUSIVE (1 << 0)
#define REDISMODULE_STREAM_ITERATOR_REVERSE (1 << 1)
#define REDISMODULE_REPLY_STRING 0
#define REDISMODULE_REPLY_ERROR 1
#define REDISMODULE_REPLY_INTEGER 2
#define REDISMODULE_REPLY_ARRAY 3

#define REDISMODULE_NOTIFY_GENERIC (1 << 2)
#define REDISMODULE_NOTIFY_STRING (1 << 3)
#define REDISMODULE_NOTIFY_LIST (1 << 4)
#define REDISMODULE_NOTIFY_SET (1 << 5)
#define REDISMODULE_NOTIFY_HASH (1 << 6)
#define REDISMODULE_NOTIFY_ZSET (1 << 7)
#define REDISMODULE_NOTIFY_EXPIRED (1 << 8)
#define REDISMODULE_NOTIFY_EVICTED (1 << 9)
#define REDISMODULE_NOTIFY_STREAM (1 << 10)
#define REDISMODULE_NOTIFY_MODULE (1 << 13)

#define REDISMODULE_CTX_FLAGS_LUA (1 << 0)
#define REDISMODULE_CTX_FLAGS_MULTI (1 << 1)
#define REDISMODULE_CTX_FLAGS_MASTER (1 << 2)
#define REDISMODULE_CTX_FLAGS_CLUSTER (1 << 5)
#define REDISMODULE_CTX_FLAGS_REPLICATED (1 << 12)
#define REDISMODULE_CTX_FLAGS_LOADING (1 << 13)
#define REDISMODULE_CTX_FLAGS_DENY_BLOCKING (1 << 21)
#define REDISMODULE_CTX_FLAGS_RESP3 (1 << 22)

#define REDISMODULE_CMDFILTER_NOSELF (1 << 0)

#define REDISMODULE_OPTIONS_HANDLE_IO_ERRORS (1 << 0)
#define REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD (1 << 2)
#define VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION (1 << 5)

#define REDISMODULE_CONFIG_DEFAULT 0
#define REDISMODULE_CONFIG_IMMUTABLE (1 << 0)
#define REDISMODULE_CONFIG_PROTECTED (1 << 5)

#define REDISMODULE_TYPE_METHOD_VERSION 4

#define REDISMODULE_CMD_KEY_RO (1ULL << 0)
#define REDISMODULE_CMD_KEY_RW (1ULL << 1)
#define REDISMODULE_CMD_KEY_OW (1ULL << 2)
#define REDISMODULE_CMD_KEY_RM (1ULL << 3)
#define REDISMODULE_CMD_KEY_ACCESS (1ULL << 4)
#define REDISMODULE_CMD_KEY_UPDATE (1ULL << 5)
#define REDISMODULE_CMD_KEY_DELETE (1ULL << 7)
#define REDISMODULE_CMD_KEY_INCOMPLETE (1ULL << 9)

#define REDISMODULE_CMD_ARG_OPTIONAL (1 << 0)
#define REDISMODULE_CMD_ARG_MULTIPLE (1 << 1)
#define REDISMODULE_CMD_ARG_MULTIPLE_TOKEN (1 << 2)

#define REDISMODULE_ERRORMSG_WRONGTYPE "WRONGTYPE Operation against a key holding the wrong kind of value"

typedef long long mstime_t;
typedef uint64_t RedisModuleTimerID;

typedef struct RedisModuleCtx RedisModuleCtx;
typedef struct RedisModuleCommand RedisModuleCommand;
typedef struct RedisModuleKey RedisModuleKey;
typedef struct RedisModuleString RedisModuleString;
typedef struct RedisModuleCallReply RedisModuleCallReply;
typedef struct RedisModuleType RedisModuleType;
typedef struct RedisModuleIO RedisModuleIO;
typedef struct RedisModuleDigest RedisModuleDigest;
typedef struct RedisModuleBlockedClient RedisModuleBlockedClient;
typedef struct RedisModuleInfoCtx RedisModuleInfoCtx;
typedef struct RedisModuleScanCursor RedisModuleScanCursor;
typedef struct RedisModuleUser RedisModuleUser;
typedef struct RedisModuleDict RedisModuleDict;
typedef struct RedisModuleServerInfoData RedisModuleServerInfoData;
typedef struct RedisModuleDefragCtx RedisModuleDefragCtx;
typedef struct RedisModuleCommandFilter RedisModuleCommandFilter;
typedef struct RedisModuleCommandFilterCtx RedisModuleCommandFilterCtx;

typedef struct RedisModuleStreamID {
    uint64_t ms;
    uint64_t seq;
} RedisModuleStreamID;

typedef struct RedisModuleEvent {
    uint64_t id;
    uint64_t dataver;
} RedisModuleEvent;
#define REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED 0
#define REDISMODULE_EVENT_FLUSHDB 2
#define REDISMODULE_EVENT_LOADING 3
#define REDISMODULE_SUBEVENT_LOADING_ENDED 3
#define REDISMODULE_SUBEVENT_LOADING_FAILED 4
#define REDISMODULE_EVENT_SHUTDOWN 5
#define REDISMODULE_EVENT_SWAPDB 11
#define REDISMODULE_EVENT_REPL_ASYNC_LOAD 14
#define REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED 0
#define REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED 2
#define REDISMODULE_EVENT_EVENTLOOP 15
#define REDISMODULE_EVENT_CONFIG 16
#define REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP 0

typedef struct RedisModuleFlushInfo {
    uint64_t version;
    int32_t sync;
    int32_t dbnum; /* -1: all */
} RedisModuleFlushInfo;

typedef struct RedisModuleSwapDbInfo {
    uint64_t version;
    int32_t dbnum_first;
    int32_t dbnum_second;
} RedisModuleSwapDbInfo;

typedef int (*RedisModuleNotificationFunc)(RedisModuleCtx *ctx, int type, const char *event, RedisModuleString *key);
typedef int (*RedisModuleCmdFunc)(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
typedef void (*RedisModuleTimerProc)(RedisModuleCtx *ctx, void *data);
typedef void (*RedisModuleEventLoopOneShotFunc)(void *data);
typedef void (*RedisModuleEventLoopFunc)(int fd, void *data, int mask);
#define REDISMODULE_EVENTLOOP_READABLE 1
#define REDISMODULE_EVENTLOOP_WRITABLE 2
typedef void (*RedisModuleFreePrivDataFunc)(RedisModuleCtx *ctx, void *privdata);
typedef void (*RedisModuleDisconnectFunc)(RedisModuleCtx *ctx, RedisModuleBlockedClient *blocked);
typedef void (*RedisModuleInfoFunc)(RedisModuleInfoCtx *ctx, int for_crash_report);
typedef void (*RedisModuleEventCallback)(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data);
typedef void (*RedisModuleUserChangedFunc)(uint64_t client, void *privdata);
typedef void (*RedisModuleCommandFilterFunc)(RedisModuleCommandFilterCtx *filter);
typedef void (*RedisModuleScanKeyCB)(RedisModuleKey *key, RedisModuleString *field, RedisModuleString *value,
                                     void *data);
typedef void (*RedisModuleScanCB)(RedisModuleCtx *ctx, RedisModuleString *keyname, RedisModuleKey *key, void *data);

typedef long long (*RedisModuleConfigGetNumeric)(const char *name, void *privdata);
typedef int (*RedisModuleConfigSetNumeric)(const char *name, long long value, void *privdata, RedisModuleString **err);
typedef int (*RedisModuleConfigGetEnum)(const char *name, void *privdata);
typedef int (*RedisModuleConfigSetEnum)(const char *name, int value, void *privdata, RedisModuleString **err);
typedef RedisModuleString *(*RedisModuleConfigGetString)(const char *name, void *privdata);
typedef int (*RedisModuleConfigSetString)(const char *name, RedisModuleString *value, void *privdata,
                                          RedisModuleString **err);
typedef int (*RedisModuleConfigApply)(RedisModuleCtx *ctx, void *privdata, RedisModuleString **err);

typedef struct RedisModuleTypeMethods {
    uint64_t version;
    void *(*rdb_load)(RedisModuleIO *io, int encver);
    void (*rdb_save)(RedisModuleIO *io, void *value);
    void (*aof_rewrite)(RedisModuleIO *io, RedisModuleString *key, void *value);
    size_t (*mem_usage)(const void *value);
    void (*digest)(RedisModuleDigest *digest, void *value);
    void (*free)(void *value);
    int (*aux_load)(RedisModuleIO *io, int encver, int when);
    void (*aux_save)(RedisModuleIO *io, int when);
    int aux_save_triggers;
    size_t (*free_effort)(RedisModuleString *key, const void *value);
    void (*unlink)(RedisModuleString *key, const void *value);
    void *(*copy)(RedisModuleString *from, RedisModuleString *to, const void *value);
    int (*defrag)(RedisModuleDefragCtx *ctx, RedisModuleString *key, void **value);
    size_t (*mem_usage2)(void *ctx, const void *value, size_t sample_size);
    size_t (*free_effort2)(void *ctx, const void *value);
    void (*unlink2)(void *ctx, const void *value);
    void *(*copy2)(void *ctx, const void *value);
    void (*aux_save2)(RedisModuleIO *io, int when); /* from version 5 on */
} RedisModuleTypeMethods;

/* What RedisModule_SetCommandInfo takes: types of arguments, where keys begin, how they go on. */
#define REDISMODULE_ARG_TYPE_STRING 0
#define REDISMODULE_ARG_TYPE_INTEGER 1
#define REDISMODULE_ARG_TYPE_KEY 3
#define REDISMODULE_ARG_TYPE_PURE_TOKEN 6
#define REDISMODULE_ARG_TYPE_ONEOF 7
#define REDISMODULE_ARG_TYPE_BLOCK 8
#define REDISMODULE_KSPEC_BS_UNKNOWN 1
#define REDISMODULE_KSPEC_BS_INDEX 2
#define REDISMODULE_KSPEC_BS_KEYWORD 3
#define REDISMODULE_KSPEC_FK_UNKNOWN 1
#define REDISMODULE_KSPEC_FK_RANGE 2
#define REDISMODULE_KSPEC_FK_KEYNUM 3

typedef struct RedisModuleCommandKeySpec {
    const char *notes;
    uint64_t flags;
    int begin_search_type;
    union {
        struct {
            int pos;
        } index;
        struct {
            const char *keyword;
            int startfrom;
        } keyword;
    } bs;
    int find_keys_type;
    union {
        struct {
            int lastkey;
            int keystep;
            int limit;
        } range;
        struct {
            int keynumidx;
            int firstkey;
            int keystep;
        } keynum;
    } fk;
} RedisModuleCommandKeySpec;

typedef struct RedisModuleCommandArg {
    const char *name;
    int type;
    int key_spec_index;
    const char *token;
    const char *summary;
    const char *since;
    int flags;
    const char *deprecated_since;
    struct RedisModuleCommandArg *subargs;
    const char *display_text;
} RedisModuleCommandArg;

typedef struct RedisModuleCommandInfoVersion {
    int version;
    size_t sizeof_historyentry;
    size_t sizeof_keyspec;
    size_t sizeof_arg;
} RedisModuleCommandInfoVersion;

typedef struct RedisModuleCommandInfo {
    const RedisModuleCommandInfoVersion *version;
    const char *summary;
    const char *complexity;
    const char *since;
    struct RedisModuleCommandHistoryEntry *history; /* pairs of strings */
    const char *tips;
    int arity;
    RedisModuleCommandKeySpec *key_specs;
    RedisModuleCommandArg *args;
} RedisModuleCommandInfo;

/* One line a function: FUNCTION(result, name, (arguments)). The list is expanded three times: declarations,
 * definitions, binding. */
#define REDIS_FUNCTIONS(FUNCTION, OPTIONAL)                                                                            \
    FUNCTION(int, SetModuleAttribs, (RedisModuleCtx *, const char *, int, int))                                        \
    FUNCTION(void, SetModuleOptions, (RedisModuleCtx *, int))                                                          \
    FUNCTION(int, CreateCommand, (RedisModuleCtx *, const char *, RedisModuleCmdFunc, const char *, int, int, int))    \
    FUNCTION(RedisModuleCommand *, GetCommand, (RedisModuleCtx *, const char *))                                       \
    FUNCTION(int, SetCommandInfo, (RedisModuleCommand *, const RedisModuleCommandInfo *))                              \
    FUNCTION(RedisModuleType *, CreateDataType, (RedisModuleCtx *, const char *, int, RedisModuleTypeMethods *))       \
    FUNCTION(int, RegisterInfoFunc, (RedisModuleCtx *, RedisModuleInfoFunc))                                           \
    /* memory */                                                                                                       \
    FUNCTION(void *, Alloc, (size_t))                                                                                  \
    FUNCTION(void *, Calloc, (size_t, size_t))                                                                         \
    FUNCTION(void *, Realloc, (void *, size_t))                                                                        \
    FUNCTION(void, Free, (void *))                                                                                     \
    FUNCTION(char *, Strdup, (const char *))                                                                           \
    FUNCTION(size_t, MallocSize, (void *))                                                                             \
    OPTIONAL(void *, TryCalloc, (size_t, size_t))                                                                      \
    OPTIONAL(void *, TryAlloc, (size_t))                                                                               \
    FUNCTION(float, GetUsedMemoryRatio, (void))                                                                        \
    FUNCTION(void, GetRandomBytes, (unsigned char *, size_t))                                                          \
    FUNCTION(size_t, MallocSizeString, (RedisModuleString *))                                                          \
    FUNCTION(void *, DefragAlloc, (RedisModuleDefragCtx *, void *))                                                    \
    OPTIONAL(RedisModuleString *, DefragRedisModuleString, (RedisModuleDefragCtx *, RedisModuleString *))              \
    OPTIONAL(RedisModuleString *, DefragValkeyModuleString, (RedisModuleDefragCtx *, RedisModuleString *))             \
    /* strings */                                                                                                      \
    FUNCTION(RedisModuleString *, CreateString, (RedisModuleCtx *, const char *, size_t))                              \
    FUNCTION(RedisModuleString *, CreateStringFromLongLong, (RedisModuleCtx *, long long))                             \
    FUNCTION(void, FreeString, (RedisModuleCtx *, RedisModuleString *))                                                \
    FUNCTION(RedisModuleString *, HoldString, (RedisModuleCtx *, RedisModuleString *))                                 \
    FUNCTION(void, TrimStringAllocation, (RedisModuleString *))                                                        \
    FUNCTION(const char *, StringPtrLen, (const RedisModuleString *, size_t *))                                        \
    FUNCTION(int, StringToLongLong, (const RedisModuleString *, long long *))                                          \
    FUNCTION(int, StringCompare, (const RedisModuleString *, const RedisModuleString *))                               \
    FUNCTION(int, StringToDouble, (const RedisModuleString *, double *))                                               \
    /* dictionaries */                                                                                                 \
    FUNCTION(RedisModuleDict *, CreateDict, (RedisModuleCtx *))                                                        \
    FUNCTION(void, FreeDict, (RedisModuleCtx *, RedisModuleDict *))                                                    \
    FUNCTION(int, DictReplace, (RedisModuleDict *, RedisModuleString *, void *))                                       \
    FUNCTION(int, DictSet, (RedisModuleDict *, RedisModuleString *, void *))                                           \
    FUNCTION(void *, DictGet, (RedisModuleDict *, RedisModuleString *, int *))                                         \
    /* keys */                                                                                                         \
    FUNCTION(RedisModuleKey *, OpenKey, (RedisModuleCtx *, RedisModuleString *, int))                                  \
    FUNCTION(void, CloseKey, (RedisModuleKey *))                                                                       \
    FUNCTION(int, KeyType, (RedisModuleKey *))                                                                         \
    FUNCTION(size_t, ValueLength, (RedisModuleKey *))                                                                  \
    FUNCTION(char *, StringDMA, (RedisModuleKey *, size_t *, int))                                                     \
    FUNCTION(int, HashGet, (RedisModuleKey *, int, ...))                                                               \
    FUNCTION(RedisModuleString *, ListGet, (RedisModuleKey *, long))                                                   \
    FUNCTION(int, StreamIteratorStart, (RedisModuleKey *, int, RedisModuleStreamID *, RedisModuleStreamID *))          \
    FUNCTION(int, StreamIteratorNextID, (RedisModuleKey *, RedisModuleStreamID *, long *))                             \
    FUNCTION(int, StreamIteratorNextField, (RedisModuleKey *, RedisModuleString **, RedisModuleString **))             \
    FUNCTION(int, StreamIteratorStop, (RedisModuleKey *))                                                              \
    FUNCTION(int, DeleteKey, (RedisModuleKey *))                                                                       \
    FUNCTION(RedisModuleType *, ModuleTypeGetType, (RedisModuleKey *))                                                 \
    FUNCTION(void *, ModuleTypeGetValue, (RedisModuleKey *))                                                           \
    FUNCTION(int, ModuleTypeSetValue, (RedisModuleKey *, RedisModuleType *, void *))                                   \
    FUNCTION(int, SubscribeToKeyspaceEvents, (RedisModuleCtx *, int, RedisModuleNotificationFunc))                     \
    FUNCTION(int, NotifyKeyspaceEvent, (RedisModuleCtx *, int, const char *, RedisModuleString *))                     \
    FUNCTION(int, IsKeysPositionRequest, (RedisModuleCtx *))                                                           \
    FUNCTION(void, KeyAtPosWithFlags, (RedisModuleCtx *, int, int))                                                    \
    FUNCTION(RedisModuleScanCursor *, ScanCursorCreate, (void))                                                        \
    FUNCTION(void, ScanCursorDestroy, (RedisModuleScanCursor *))                                                       \
    FUNCTION(int, Scan, (RedisModuleCtx *, RedisModuleScanCursor *, RedisModuleScanCB, void *))                        \
    FUNCTION(int, ScanKey, (RedisModuleKey *, RedisModuleScanCursor *, RedisModuleScanKeyCB, void *))                  \
    FUNCTION(void, ScanCursorRestart, (RedisModuleScanCursor *))                                                       \
    /* replies */                                                                                                      \
    FUNCTION(int, ReplyWithError, (RedisModuleCtx *, const char *))                                                    \
    FUNCTION(int, ReplyWithSimpleString, (RedisModuleCtx *, const char *))                                             \
    FUNCTION(int, ReplyWithLongLong, (RedisModuleCtx *, long long))                                                    \
    FUNCTION(int, ReplyWithDouble, (RedisModuleCtx *, double))                                                         \
    FUNCTION(int, ReplyWithBigNumber, (RedisModuleCtx *, const char *, size_t))                                        \
    FUNCTION(int, ReplyWithNull, (RedisModuleCtx *))                                                                   \
    FUNCTION(void, ReplySetArrayLength, (RedisModuleCtx *, long))                                                      \
    FUNCTION(int, ReplyWithArray, (RedisModuleCtx *, long))                                                            \
    FUNCTION(int, ReplyWithCString, (RedisModuleCtx *, const char *))                                                  \
    FUNCTION(int, ReplyWithStringBuffer, (RedisModuleCtx *, const char *, size_t))                                     \
    FUNCTION(int, ReplyWithString, (RedisModuleCtx *, RedisModuleString *))                                            \
    /* replication, calls, surroundings */                                                                             \
    FUNCTION(int, Replicate, (RedisModuleCtx *, const char *, const char *, ...))                                      \
    FUNCTION(int, ReplicateVerbatim, (RedisModuleCtx *))                                                               \
    FUNCTION(RedisModuleCallReply *, Call, (RedisModuleCtx *, const char *, const char *, ...))                        \
    FUNCTION(void, FreeCallReply, (RedisModuleCallReply *))                                                            \
    FUNCTION(RedisModuleCallReply *, CallReplyArrayElement, (RedisModuleCallReply *, size_t))                          \
    FUNCTION(const char *, CallReplyStringPtr, (RedisModuleCallReply *, size_t *))                                     \
    FUNCTION(int, GetTypeMethodVersion, (void))                                                                        \
    FUNCTION(int, GetServerVersion, (void))                                                                            \
    FUNCTION(int, GetContextFlags, (RedisModuleCtx *))                                                                 \
    FUNCTION(void, Log, (RedisModuleCtx *, const char *, const char *, ...))                                           \
    FUNCTION(RedisModuleTimerID, CreateTimer, (RedisModuleCtx *, mstime_t, RedisModuleTimerProc, void *))              \
    FUNCTION(int, StopTimer, (RedisModuleCtx *, RedisModuleTimerID, void **))                                          \
    FUNCTION(int, EventLoopAdd, (int, int, RedisModuleEventLoopFunc, void *))                                          \
    FUNCTION(int, EventLoopDel, (int, int))                                                                            \
    FUNCTION(int, EventLoopAddOneShot, (RedisModuleEventLoopOneShotFunc, void *))                                      \
    FUNCTION(void, LatencyAddSample, (const char *, long long))                                                        \
    FUNCTION(int, GetSelectedDb, (RedisModuleCtx *))                                                                   \
    FUNCTION(int, SelectDb, (RedisModuleCtx *, int))                                                                   \
    FUNCTION(RedisModuleCtx *, GetDetachedThreadSafeContext, (RedisModuleCtx *))                                       \
    FUNCTION(int, SubscribeToServerEvent, (RedisModuleCtx *, RedisModuleEvent, RedisModuleEventCallback))              \
    FUNCTION(RedisModuleString *, GetCurrentUserName, (RedisModuleCtx *))                                              \
    FUNCTION(RedisModuleUser *, GetModuleUserFromUserName, (RedisModuleString *))                                      \
    FUNCTION(int, ACLCheckCommandPermissions, (RedisModuleUser *, RedisModuleString **, int))                          \
    FUNCTION(RedisModuleUser *, CreateModuleUser, (const char *))                                                      \
    FUNCTION(int, SetModuleUserACL, (RedisModuleUser *, const char *))                                                 \
    FUNCTION(int, AuthenticateClientWithUser,                                                                          \
             (RedisModuleCtx *, RedisModuleUser *, RedisModuleUserChangedFunc, void *, uint64_t *))                    \
    FUNCTION(int, AuthenticateClientWithACLUser,                                                                       \
             (RedisModuleCtx *, const char *, size_t, RedisModuleUserChangedFunc, void *, uint64_t *))                 \
    FUNCTION(void, FreeModuleUser, (RedisModuleUser *))                                                                \
    OPTIONAL(int, SetCommandACLCategories, (RedisModuleCommand *, const char *))                                       \
    OPTIONAL(int, AddACLCategory, (RedisModuleCtx *, const char *))                                                    \
    FUNCTION(void, SetContextUser, (RedisModuleCtx *, const RedisModuleUser *))                                        \
    FUNCTION(int, ACLCheckKeyPermissions, (RedisModuleUser *, RedisModuleString *, int))                               \
    FUNCTION(int *, GetCommandKeys, (RedisModuleCtx *, RedisModuleString **, int, int *))                              \
    FUNCTION(int *, GetCommandKeysWithFlags, (RedisModuleCtx *, RedisModuleString **, int, int *, int **))             \
    FUNCTION(const char *, CallReplyProto, (RedisModuleCallReply *, size_t *))                                         \
    FUNCTION(int, ReplyWithCallReply, (RedisModuleCtx *, RedisModuleCallReply *))                                      \
    FUNCTION(RedisModuleCommandFilter *, RegisterCommandFilter, (RedisModuleCtx *, RedisModuleCommandFilterFunc, int)) \
    FUNCTION(int, UnregisterCommandFilter, (RedisModuleCtx *, RedisModuleCommandFilter *))                             \
    FUNCTION(int, CommandFilterArgsCount, (RedisModuleCommandFilterCtx *))                                             \
    FUNCTION(RedisModuleString *, CommandFilterArgGet, (RedisModuleCommandFilterCtx *, int))                           \
    FUNCTION(int, CommandFilterArgInsert, (RedisModuleCommandFilterCtx *, int, RedisModuleString *))                   \
    FUNCTION(int, CallReplyType, (RedisModuleCallReply *))                                                             \
    FUNCTION(long long, CallReplyInteger, (RedisModuleCallReply *))                                                    \
    FUNCTION(size_t, CallReplyLength, (RedisModuleCallReply *))                                                        \
    FUNCTION(int, AvoidReplicaTraffic, (void))                                                                         \
    FUNCTION(int, IsModuleNameBusy, (const char *))                                                                    \
    /* dictionaries */                                                                                                 \
    FUNCTION(int, DictSetC, (RedisModuleDict *, void *, size_t, void *))                                               \
    FUNCTION(void *, DictGetC, (RedisModuleDict *, void *, size_t, int *))                                             \
    FUNCTION(int, DictDelC, (RedisModuleDict *, void *, size_t, void *))                                               \
    /* configuration */                                                                                                \
    FUNCTION(int, RegisterNumericConfig,                                                                               \
             (RedisModuleCtx *, const char *, long long, unsigned, long long, long long, RedisModuleConfigGetNumeric,  \
              RedisModuleConfigSetNumeric, RedisModuleConfigApply, void *))                                            \
    FUNCTION(int, RegisterStringConfig,                                                                                \
             (RedisModuleCtx *, const char *, const char *, unsigned, RedisModuleConfigGetString,                      \
              RedisModuleConfigSetString, RedisModuleConfigApply, void *))                                             \
    FUNCTION(int, RegisterEnumConfig,                                                                                  \
             (RedisModuleCtx *, const char *, int, unsigned, const char **, const int *, int,                          \
              RedisModuleConfigGetEnum, RedisModuleConfigSetEnum, RedisModuleConfigApply, void *))                     \
    FUNCTION(int, LoadConfigs, (RedisModuleCtx *))                                                                     \
    /* blocked clients */                                                                                              \
    FUNCTION(RedisModuleBlockedClient *, BlockClient,                                                                  \
             (RedisModuleCtx *, RedisModuleCmdFunc, RedisModuleCmdFunc, RedisModuleFreePrivDataFunc, long long))       \
    FUNCTION(int, UnblockClient, (RedisModuleBlockedClient *, void *))                                                 \
    FUNCTION(RedisModuleBlockedClient *, GetBlockedClientHandle, (RedisModuleCtx *))                                   \
    FUNCTION(unsigned long long, GetClientId, (RedisModuleCtx *))                                                      \
    FUNCTION(int, DeauthenticateAndCloseClient, (RedisModuleCtx *, uint64_t))                                          \
    FUNCTION(void *, GetBlockedClientPrivateData, (RedisModuleCtx *))                                                  \
    FUNCTION(void, SetDisconnectCallback, (RedisModuleBlockedClient *, RedisModuleDisconnectFunc))                     \
    FUNCTION(int, BlockedClientMeasureTimeStart, (RedisModuleBlockedClient *))                                         \
    FUNCTION(int, BlockedClientMeasureTimeEnd, (RedisModuleBlockedClient *))                                           \
    FUNCTION(RedisModuleCtx *, GetThreadSafeContext, (RedisModuleBlockedClient *))                                     \
    FUNCTION(void, FreeThreadSafeContext, (RedisModuleCtx *))                                                          \
    /* saving and loading */                                                                                           \
    FUNCTION(void, SaveUnsigned, (RedisModuleIO *, uint64_t))                                                          \
    FUNCTION(uint64_t, LoadUnsigned, (RedisModuleIO *))                                                                \
    FUNCTION(void, SaveSigned, (RedisModuleIO *, int64_t))                                                             \
    FUNCTION(int64_t, LoadSigned, (RedisModuleIO *))                                                                   \
    FUNCTION(void, SaveStringBuffer, (RedisModuleIO *, const char *, size_t))                                          \
    FUNCTION(char *, LoadStringBuffer, (RedisModuleIO *, size_t *))                                                    \
    FUNCTION(int, IsIOError, (RedisModuleIO *))                                                                        \
    FUNCTION(void, LogIOError, (RedisModuleIO *, const char *, const char *, ...))                                     \
    FUNCTION(const RedisModuleString *, GetKeyNameFromIO, (RedisModuleIO *))                                           \
    FUNCTION(void, EmitAOF, (RedisModuleIO *, const char *, const char *, ...))                                        \
    FUNCTION(void, DigestAddStringBuffer, (RedisModuleDigest *, const char *, size_t))                                 \
    FUNCTION(void, DigestAddLongLong, (RedisModuleDigest *, long long))                                                \
    FUNCTION(void, DigestEndSequence, (RedisModuleDigest *))                                                           \
    /* INFO */                                                                                                         \
    FUNCTION(RedisModuleServerInfoData *, GetServerInfo, (RedisModuleCtx *, const char *))                             \
    FUNCTION(void, FreeServerInfo, (RedisModuleCtx *, RedisModuleServerInfoData *))                                    \
    FUNCTION(long long, ServerInfoGetFieldSigned, (RedisModuleServerInfoData *, const char *, int *))                  \
    FUNCTION(const char *, ServerInfoGetFieldC, (RedisModuleServerInfoData *, const char *))                           \
    FUNCTION(int, InfoAddSection, (RedisModuleInfoCtx *, const char *))                                                \
    FUNCTION(int, InfoAddFieldCString, (RedisModuleInfoCtx *, const char *, const char *))                             \
    FUNCTION(int, InfoAddFieldLongLong, (RedisModuleInfoCtx *, const char *, long long))                               \
    FUNCTION(int, InfoAddFieldDouble, (RedisModuleInfoCtx *, const char *, double))

#define DECLARE(result, name, arguments) extern result(*RedisModule_##name) arguments;
REDIS_FUNCTIONS(DECLARE, DECLARE)
#undef DECLARE

/* Binds every function. Returns NULL, or the name of a required one that this server does not have. */
const char *redis_api_bind(RedisModuleCtx *ctx);

/* Logs why the module cannot be loaded, and returns REDISMODULE_ERR. */
int log_refusal(RedisModuleCtx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For RedisModule_Log on any thread: a line logged with it bears the module's name. Set once, at load. */
extern RedisModuleCtx *log_context;
