/* api.h - the part of the Redis module API that we use, declared here.
 *
 * No package ships redismodule.h, so the functions are listed once, in REDIS_FUNCTIONS below, and bound by name when
 * the module loads. Names and meanings are those of the Redis documentation ("Modules API reference"). A function
 * listed as OPTIONAL may be absent on the servers we support (7.0.6 and later, Valkey): test it before the call. */
#ifndef REDIS_API_H
#define REDIS_API_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REDISMODULE_OK 0
#define REDISMODULE_ERR 1
#define REDISMODULE_APIVER_1 1

#define REDISMODULE_READ (1 << 0)
#define REDISMODULE_WRITE (1 << 1)
#define REDISMODULE_KEYTYPE_EMPTY 0
#define REDISMODULE_REPLY_STRING 0
#define REDISMODULE_REPLY_ERROR 1
#define REDISMODULE_REPLY_INTEGER 2
#define REDISMODULE_REPLY_ARRAY 3
#define REDISMODULE_REPLY_DOUBLE 8

#define REDISMODULE_CTX_FLAGS_LUA (1 << 0)
#define REDISMODULE_CTX_FLAGS_MULTI (1 << 1)
#define REDISMODULE_CTX_FLAGS_CLUSTER (1 << 5)
#define REDISMODULE_CTX_FLAGS_REPLICATED (1 << 12)
#define REDISMODULE_CTX_FLAGS_LOADING (1 << 13)
#define REDISMODULE_CTX_FLAGS_DENY_BLOCKING (1 << 21)

#define REDISMODULE_OPTIONS_HANDLE_IO_ERRORS (1 << 0)
#define REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD (1 << 2)

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

typedef struct RedisModuleEvent {
    uint64_t id;
    uint64_t dataver;
} RedisModuleEvent;
#define REDISMODULE_EVENT_SHUTDOWN 5
#define REDISMODULE_EVENT_EVENTLOOP 15
#define REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP 0

typedef int (*RedisModuleCmdFunc)(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
typedef void (*RedisModuleTimerProc)(RedisModuleCtx *ctx, void *data);
typedef void (*RedisModuleEventLoopOneShotFunc)(void *data);
typedef void (*RedisModuleFreePrivDataFunc)(RedisModuleCtx *ctx, void *privdata);
typedef void (*RedisModuleDisconnectFunc)(RedisModuleCtx *ctx, RedisModuleBlockedClient *blocked);
typedef void (*RedisModuleInfoFunc)(RedisModuleInfoCtx *ctx, int for_crash_report);
typedef void (*RedisModuleEventCallback)(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data);
typedef void (*RedisModuleScanCB)(RedisModuleCtx *ctx, RedisModuleString *keyname, RedisModuleKey *key, void *data);

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
    int (*defrag)(void *ctx, RedisModuleString *key, void **value);
    size_t (*mem_usage2)(void *ctx, const void *value, size_t sample_size);
    size_t (*free_effort2)(void *ctx, const void *value);
    void (*unlink2)(void *ctx, const void *value);
    void *(*copy2)(void *ctx, const void *value);
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
    FUNCTION(int, SetModuleAttribs, (RedisModuleCtx * ctx, const char *name, int version, int apiver))                 \
    FUNCTION(void, SetModuleOptions, (RedisModuleCtx * ctx, int options))                                              \
    FUNCTION(int, CreateCommand,                                                                                       \
             (RedisModuleCtx * ctx, const char *name, RedisModuleCmdFunc handler, const char *flags, int first,        \
              int last, int step))                                                                                     \
    FUNCTION(RedisModuleCommand *, GetCommand, (RedisModuleCtx * ctx, const char *name))                               \
    FUNCTION(int, SetCommandInfo, (RedisModuleCommand * command, const RedisModuleCommandInfo *info))                  \
    FUNCTION(RedisModuleType *, CreateDataType,                                                                        \
             (RedisModuleCtx * ctx, const char *name, int encver, RedisModuleTypeMethods *methods))                    \
    FUNCTION(int, RegisterInfoFunc, (RedisModuleCtx * ctx, RedisModuleInfoFunc callback))                              \
    /* memory */                                                                                                       \
    FUNCTION(void *, Alloc, (size_t bytes))                                                                            \
    FUNCTION(void *, Calloc, (size_t count, size_t bytes))                                                             \
    FUNCTION(void *, Realloc, (void *ptr, size_t bytes))                                                               \
    FUNCTION(void, Free, (void *ptr))                                                                                  \
    FUNCTION(char *, Strdup, (const char *text))                                                                       \
    FUNCTION(size_t, MallocSize, (void *ptr))                                                                          \
    OPTIONAL(void *, TryCalloc, (size_t count, size_t bytes))                                                          \
    OPTIONAL(void *, TryAlloc, (size_t bytes))                                                                         \
    FUNCTION(size_t, MallocSizeString, (RedisModuleString * str))                                                      \
    /* strings */                                                                                                      \
    FUNCTION(RedisModuleString *, CreateString, (RedisModuleCtx * ctx, const char *ptr, size_t len))                   \
    FUNCTION(RedisModuleString *, CreateStringFromLongLong, (RedisModuleCtx * ctx, long long ll))                      \
    FUNCTION(void, FreeString, (RedisModuleCtx * ctx, RedisModuleString * str))                                        \
    FUNCTION(RedisModuleString *, HoldString, (RedisModuleCtx * ctx, RedisModuleString * str))                         \
    FUNCTION(void, TrimStringAllocation, (RedisModuleString * str))                                                    \
    FUNCTION(const char *, StringPtrLen, (const RedisModuleString *str, size_t *len))                                  \
    FUNCTION(int, StringToLongLong, (const RedisModuleString *str, long long *ll))                                     \
    FUNCTION(int, StringToDouble, (const RedisModuleString *str, double *d))                                           \
    /* dictionaries */                                                                                                 \
    FUNCTION(RedisModuleDict *, CreateDict, (RedisModuleCtx * ctx))                                                    \
    FUNCTION(void, FreeDict, (RedisModuleCtx * ctx, RedisModuleDict * dict))                                           \
    FUNCTION(int, DictReplace, (RedisModuleDict * dict, RedisModuleString * key, void *ptr))                           \
    FUNCTION(int, DictSet, (RedisModuleDict * dict, RedisModuleString * key, void *ptr))                               \
    FUNCTION(void *, DictGet, (RedisModuleDict * dict, RedisModuleString * key, int *nokey))                           \
    /* keys */                                                                                                         \
    FUNCTION(RedisModuleKey *, OpenKey, (RedisModuleCtx * ctx, RedisModuleString * name, int mode))                    \
    FUNCTION(void, CloseKey, (RedisModuleKey * key))                                                                   \
    FUNCTION(int, KeyType, (RedisModuleKey * key))                                                                     \
    FUNCTION(int, DeleteKey, (RedisModuleKey * key))                                                                   \
    FUNCTION(RedisModuleType *, ModuleTypeGetType, (RedisModuleKey * key))                                             \
    FUNCTION(void *, ModuleTypeGetValue, (RedisModuleKey * key))                                                       \
    FUNCTION(int, ModuleTypeSetValue, (RedisModuleKey * key, RedisModuleType * type, void *value))                     \
    FUNCTION(int, IsKeysPositionRequest, (RedisModuleCtx * ctx))                                                       \
    FUNCTION(void, KeyAtPosWithFlags, (RedisModuleCtx * ctx, int pos, int flags))                                      \
    FUNCTION(RedisModuleScanCursor *, ScanCursorCreate, (void))                                                        \
    FUNCTION(void, ScanCursorDestroy, (RedisModuleScanCursor * cursor))                                                \
    FUNCTION(int, Scan,                                                                                                \
             (RedisModuleCtx * ctx, RedisModuleScanCursor * cursor, RedisModuleScanCB callback, void *data))           \
    /* replies */                                                                                                      \
    FUNCTION(int, ReplyWithError, (RedisModuleCtx * ctx, const char *error))                                           \
    FUNCTION(int, ReplyWithSimpleString, (RedisModuleCtx * ctx, const char *text))                                     \
    FUNCTION(int, ReplyWithLongLong, (RedisModuleCtx * ctx, long long ll))                                             \
    FUNCTION(int, ReplyWithDouble, (RedisModuleCtx * ctx, double d))                                                   \
    FUNCTION(int, ReplyWithBigNumber, (RedisModuleCtx * ctx, const char *digits, size_t len))                          \
    FUNCTION(int, ReplyWithNull, (RedisModuleCtx * ctx))                                                               \
    FUNCTION(int, ReplyWithArray, (RedisModuleCtx * ctx, long len))                                                    \
    FUNCTION(int, ReplyWithCString, (RedisModuleCtx * ctx, const char *text))                                          \
    FUNCTION(int, ReplyWithStringBuffer, (RedisModuleCtx * ctx, const char *buf, size_t len))                          \
    FUNCTION(int, ReplyWithString, (RedisModuleCtx * ctx, RedisModuleString * str))                                    \
    /* replication, calls, surroundings */                                                                             \
    FUNCTION(int, Replicate, (RedisModuleCtx * ctx, const char *command, const char *format, ...))                     \
    FUNCTION(int, ReplicateVerbatim, (RedisModuleCtx * ctx))                                                           \
    FUNCTION(RedisModuleCallReply *, Call, (RedisModuleCtx * ctx, const char *command, const char *format, ...))       \
    FUNCTION(void, FreeCallReply, (RedisModuleCallReply * reply))                                                      \
    FUNCTION(RedisModuleCallReply *, CallReplyArrayElement, (RedisModuleCallReply * reply, size_t index))              \
    FUNCTION(const char *, CallReplyStringPtr, (RedisModuleCallReply * reply, size_t *len))                            \
    FUNCTION(int, GetContextFlags, (RedisModuleCtx * ctx))                                                             \
    FUNCTION(void, Log, (RedisModuleCtx * ctx, const char *level, const char *format, ...))                            \
    FUNCTION(RedisModuleTimerID, CreateTimer,                                                                          \
             (RedisModuleCtx * ctx, mstime_t period, RedisModuleTimerProc callback, void *data))                       \
    FUNCTION(int, StopTimer, (RedisModuleCtx * ctx, RedisModuleTimerID id, void **data))                               \
    FUNCTION(int, EventLoopAddOneShot, (RedisModuleEventLoopOneShotFunc callback, void *data))                         \
    FUNCTION(int, GetSelectedDb, (RedisModuleCtx * ctx))                                                               \
    FUNCTION(int, SelectDb, (RedisModuleCtx * ctx, int db))                                                            \
    FUNCTION(RedisModuleCtx *, GetDetachedThreadSafeContext, (RedisModuleCtx * ctx))                                   \
    FUNCTION(int, SubscribeToServerEvent,                                                                              \
             (RedisModuleCtx * ctx, RedisModuleEvent event, RedisModuleEventCallback callback))                        \
    FUNCTION(RedisModuleString *, GetCurrentUserName, (RedisModuleCtx * ctx))                                          \
    FUNCTION(RedisModuleUser *, GetModuleUserFromUserName, (RedisModuleString * name))                                 \
    FUNCTION(int, ACLCheckCommandPermissions, (RedisModuleUser * user, RedisModuleString * *argv, int argc))           \
    FUNCTION(void, FreeModuleUser, (RedisModuleUser * user))                                                           \
    OPTIONAL(int, SetCommandACLCategories, (RedisModuleCommand * command, const char *categories))                     \
    FUNCTION(void, SetContextUser, (RedisModuleCtx * ctx, const RedisModuleUser *user))                                \
    FUNCTION(int, ACLCheckKeyPermissions, (RedisModuleUser * user, RedisModuleString * key, int flags))                \
    FUNCTION(int *, GetCommandKeys, (RedisModuleCtx * ctx, RedisModuleString * *argv, int argc, int *count))           \
    FUNCTION(int, CallReplyType, (RedisModuleCallReply * reply))                                                       \
    FUNCTION(long long, CallReplyInteger, (RedisModuleCallReply * reply))                                              \
    FUNCTION(double, CallReplyDouble, (RedisModuleCallReply * reply))                                                  \
    FUNCTION(size_t, CallReplyLength, (RedisModuleCallReply * reply))                                                  \
    FUNCTION(int, AvoidReplicaTraffic, (void))                                                                         \
    FUNCTION(int, IsModuleNameBusy, (const char *name))                                                                \
    /* blocked clients */                                                                                              \
    FUNCTION(RedisModuleBlockedClient *, BlockClient,                                                                  \
             (RedisModuleCtx * ctx, RedisModuleCmdFunc reply, RedisModuleCmdFunc timeout,                              \
              RedisModuleFreePrivDataFunc free_privdata, long long timeout_ms))                                        \
    FUNCTION(int, UnblockClient, (RedisModuleBlockedClient * blocked, void *privdata))                                 \
    FUNCTION(void *, GetBlockedClientPrivateData, (RedisModuleCtx * ctx))                                              \
    FUNCTION(void, SetDisconnectCallback, (RedisModuleBlockedClient * blocked, RedisModuleDisconnectFunc callback))    \
    FUNCTION(int, BlockedClientMeasureTimeStart, (RedisModuleBlockedClient * blocked))                                 \
    FUNCTION(int, BlockedClientMeasureTimeEnd, (RedisModuleBlockedClient * blocked))                                   \
    FUNCTION(RedisModuleCtx *, GetThreadSafeContext, (RedisModuleBlockedClient * blocked))                             \
    FUNCTION(void, FreeThreadSafeContext, (RedisModuleCtx * ctx))                                                      \
    /* saving and loading */                                                                                           \
    FUNCTION(void, SaveUnsigned, (RedisModuleIO * io, uint64_t value))                                                 \
    FUNCTION(uint64_t, LoadUnsigned, (RedisModuleIO * io))                                                             \
    FUNCTION(void, SaveSigned, (RedisModuleIO * io, int64_t value))                                                    \
    FUNCTION(int64_t, LoadSigned, (RedisModuleIO * io))                                                                \
    FUNCTION(void, SaveStringBuffer, (RedisModuleIO * io, const char *buf, size_t len))                                \
    FUNCTION(char *, LoadStringBuffer, (RedisModuleIO * io, size_t *len))                                              \
    FUNCTION(int, IsIOError, (RedisModuleIO * io))                                                                     \
    FUNCTION(void, LogIOError, (RedisModuleIO * io, const char *level, const char *format, ...))                       \
    FUNCTION(const RedisModuleString *, GetKeyNameFromIO, (RedisModuleIO * io))                                        \
    FUNCTION(void, EmitAOF, (RedisModuleIO * io, const char *command, const char *format, ...))                        \
    FUNCTION(void, DigestAddStringBuffer, (RedisModuleDigest * digest, const char *buf, size_t len))                   \
    FUNCTION(void, DigestAddLongLong, (RedisModuleDigest * digest, long long ll))                                      \
    FUNCTION(void, DigestEndSequence, (RedisModuleDigest * digest))                                                    \
    /* INFO */                                                                                                         \
    FUNCTION(RedisModuleServerInfoData *, GetServerInfo, (RedisModuleCtx * ctx, const char *section))                  \
    FUNCTION(void, FreeServerInfo, (RedisModuleCtx * ctx, RedisModuleServerInfoData * data))                           \
    FUNCTION(long long, ServerInfoGetFieldSigned, (RedisModuleServerInfoData * data, const char *field, int *out_err)) \
    FUNCTION(int, InfoAddSection, (RedisModuleInfoCtx * ctx, const char *name))                                        \
    FUNCTION(int, InfoAddFieldCString, (RedisModuleInfoCtx * ctx, const char *field, const char *value))               \
    FUNCTION(int, InfoAddFieldLongLong, (RedisModuleInfoCtx * ctx, const char *field, long long value))                \
    FUNCTION(int, InfoAddFieldDouble, (RedisModuleInfoCtx * ctx, const char *field, double value))

#define DECLARE(result, name, arguments) extern result(*RedisModule_##name) arguments;
REDIS_FUNCTIONS(DECLARE, DECLARE)
#undef DECLARE

/* Binds every function. Returns NULL, or the name of a required one that this server does not have. */
const char *redis_api_bind(RedisModuleCtx *ctx);

/* For RedisModule_Log on any thread: a line logged with it bears the module's name. Set once, at load. */
extern RedisModuleCtx *log_context;

#endif
