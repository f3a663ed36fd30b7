/* options.c - load-time options and AI.CONFIG (options.h).
 *
 * Main thread, except bridge_options and bridge_backends_path, which the loader calls. Lock: backends_path_mutex, a
 * leaf (nothing is taken while it is held). */
#include "options.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "loader.h"
#include "model.h"

#define MAX_THREADS 1024

ModuleOptions options = {
    .engine = {.threads_per_queue = 1, .model_execution_timeout = 5000},
    .model_chunk_size = 511LL * 1024 * 1024,
};

static pthread_mutex_t backends_path_mutex = PTHREAD_MUTEX_INITIALIZER;

const char *options_module_folder(void) {
    static char folder[PATH_MAX];
    Dl_info info;
    if (folder[0]) return folder;
    if (!dladdr((void *)options_module_folder, &info) || realpath(info.dli_fname, folder) == NULL) return NULL;
    *strrchr(folder, '/') = '\0';
    return folder;
}

static char *join(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = RedisModule_Alloc(size);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static void set_backends_path(char *path) {
    pthread_mutex_lock(&backends_path_mutex);
    char *old = options.backends_path;
    options.backends_path = path;
    pthread_mutex_unlock(&backends_path_mutex);
    RedisModule_Free(old);
}

char *options_backend_path(const char *path) {
    return path[0] == '/' ? RedisModule_Strdup(path) : join(options.backends_path, path);
}

const Options *bridge_options(void) {
    return &options.engine;
}

char *bridge_backends_path(void) {
    pthread_mutex_lock(&backends_path_mutex);
    char *copy = RedisModule_Strdup(options.backends_path);
    pthread_mutex_unlock(&backends_path_mutex);
    return copy;
}

void bridge_free(char *text) {
    RedisModule_Free(text);
}

/* ---- load-time options ------------------------------------------------------------------------------------------- */

typedef struct Number {
    const char *name;
    int64_t *value;
    long long least, most;
} Number;

static const Number numbers[] = {
    {"THREADS_PER_QUEUE", &options.engine.threads_per_queue, 1, MAX_THREADS},
    {"INTRA_OP_PARALLELISM", &options.engine.intra_op_parallelism, 0, MAX_THREADS},
    {"INTER_OP_PARALLELISM", &options.engine.inter_op_parallelism, 0, MAX_THREADS},
    {"MODEL_EXECUTION_TIMEOUT", &options.engine.model_execution_timeout, 1000, INT_MAX},
    {"ALLOW_FILE_OPS", &options.engine.allow_file_ops, 0, 1},
    {"BACKEND_MEMORY_LIMIT", &options.engine.backend_memory_limit, 0, LLONG_MAX >> 20},
};

static int refuse(RedisModuleCtx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int refuse(RedisModuleCtx *ctx, const char *format, ...) {
    char reason[512];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    RedisModule_Log(ctx, "warning", "%s", reason);
    return REDISMODULE_ERR;
}

static int parse_option(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString *value) {
    const char *text = RedisModule_StringPtrLen(value, NULL);
    long long number;
    int is_number = RedisModule_StringToLongLong(value, &number) == REDISMODULE_OK;

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (!arg_is(name, numbers[i].name)) continue;
        if (!is_number || number < numbers[i].least || number > numbers[i].most) {
            return refuse(ctx, "invalid value '%s' for %s: a number from %lld to %lld is needed", text, numbers[i].name,
                          numbers[i].least, numbers[i].most);
        }
        *numbers[i].value = number;
        return REDISMODULE_OK;
    }
    if (arg_is(name, "MODEL_CHUNK_SIZE")) {
        if (!is_number || number <= 0) return refuse(ctx, "invalid value '%s' for MODEL_CHUNK_SIZE", text);
        options.model_chunk_size = number;
        return REDISMODULE_OK;
    }
    if (arg_is(name, "BACKENDSPATH")) {
        set_backends_path(arg_copy(value));
        return REDISMODULE_OK;
    }
    if (arg_is(name, "PYTHON")) {
        RedisModule_Free(options.python);
        options.python = arg_copy(value);
        return REDISMODULE_OK;
    }
    int backend = backend_from_name(name);
    if (backend == -1) return refuse(ctx, "unknown option '%s'", RedisModule_StringPtrLen(name, NULL));
    RedisModule_Free(options.load[backend]);
    options.load[backend] = arg_copy(value);
    return REDISMODULE_OK;
}

int options_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (options_module_folder() == NULL) return refuse(ctx, "cannot find the folder of redisai.so");
    set_backends_path(join(options_module_folder(), "backends"));
    if (argc % 2) return refuse(ctx, "options come in pairs: NAME value, but an odd number of words was given");
    for (int i = 0; i < argc; i += 2) {
        if (parse_option(ctx, argv[i], argv[i + 1]) == REDISMODULE_ERR) return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}

/* ---- AI.CONFIG --------------------------------------------------------------------------------------------------- */

static int config_get(RedisModuleCtx *ctx, RedisModuleString *name) {
    if (arg_is(name, "BACKENDSPATH")) return RedisModule_ReplyWithCString(ctx, options.backends_path);
    if (arg_is(name, "MODEL_CHUNK_SIZE")) return RedisModule_ReplyWithLongLong(ctx, options.model_chunk_size);
    return RedisModule_ReplyWithNull(ctx);
}

/* The text is the one that clients know; the administrator finds the reason in the log. */
static int reply_import(RedisModuleCtx *ctx, const Job *job) {
    if (job->error == NULL) return reply_ok(ctx);
    RedisModule_Log(ctx, "warning", "AI.CONFIG LOADBACKEND: %s", job->error);
    return reply_error(ctx, "error loading backend");
}

static int reply_imported(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv;
    (void)argc;
    Job *job = RedisModule_GetBlockedClientPrivateData(ctx);
    return reply_import(ctx, job);
}

static int config_loadbackend(RedisModuleCtx *ctx, RedisModuleString **argv) {
    int backend = backend_from_name(argv[2]);
    if (backend == -1) return reply_error(ctx, "unsupported backend");
    Job *job = job_new(JOB_IMPORT);
    job->backend = backend;
    job->path = options_backend_path(RedisModule_StringPtrLen(argv[3], NULL));
    if (wait_mode(ctx) == WAIT_BLOCK) return loader_post_blocking(ctx, job, reply_imported);
    if (loader_post_and_wait(job, LOADER_PATIENCE) == -1) {
        return reply_error(ctx, "not loaded within %d s; load it outside of transactions and scripts", LOADER_PATIENCE);
    }
    reply_import(ctx, job);
    job_free(job);
    return REDISMODULE_OK;
}

/* Whether the caller may run CONFIG SET. Redis 7.0 knows no ACL categories for commands of modules, so a user without
 * @admin could otherwise make the server import Python files. */
static int is_administrator(RedisModuleCtx *ctx) {
    RedisModuleString *name = RedisModule_GetCurrentUserName(ctx);
    RedisModuleUser *user = name ? RedisModule_GetModuleUserFromUserName(name) : NULL;
    int allowed = 0;
    if (user) {
        static const char *words[] = {"CONFIG", "SET", "dir", "."};
        RedisModuleString *command[4];
        for (int i = 0; i < 4; i++) command[i] = RedisModule_CreateString(NULL, words[i], strlen(words[i]));
        allowed = RedisModule_ACLCheckCommandPermissions(user, command, 4) == REDISMODULE_OK;
        for (int i = 0; i < 4; i++) RedisModule_FreeString(NULL, command[i]);
        RedisModule_FreeModuleUser(user);
    }
    if (name) RedisModule_FreeString(ctx, name);
    return allowed;
}

static int config_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 2) return reply_wrong_arity(ctx, argv);
    if (!is_administrator(ctx)) {
        return RedisModule_ReplyWithError(ctx, "NOPERM AI.CONFIG needs a user who may run CONFIG SET");
    }
    if (arg_is(argv[1], "GET")) return argc == 3 ? config_get(ctx, argv[2]) : reply_wrong_arity(ctx, argv);
    if (arg_is(argv[1], "LOADBACKEND")) {
        return argc == 4 ? config_loadbackend(ctx, argv) : reply_wrong_arity(ctx, argv);
    }
    if (arg_is(argv[1], "BACKENDSPATH")) {
        if (argc != 3) return reply_error(ctx, "BACKENDSPATH: missing path argument");
        set_backends_path(arg_copy(argv[2]));
        return reply_ok(ctx);
    }
    if (arg_is(argv[1], "MODEL_CHUNK_SIZE")) {
        long long size;
        if (argc != 3) return reply_error(ctx, "MODEL_CHUNK_SIZE: missing chunk size");
        if (RedisModule_StringToLongLong(argv[2], &size) == REDISMODULE_ERR || size <= 0) {
            return reply_error(ctx, "MODEL_CHUNK_SIZE: invalid chunk size");
        }
        options.model_chunk_size = size;
        return reply_ok(ctx);
    }
    return reply_error(ctx, "unsupported subcommand");
}

int config_command_register(RedisModuleCtx *ctx) {
    return RedisModule_CreateCommand(ctx, "AI.CONFIG", config_command, "admin", 0, 0, 0);
}
