/* info.c - the sections that the module adds to INFO, and AI.INFO.
 *
 * Main thread. Figures that Python knows are reported by the engine as they change (the bridge functions) and kept here
 * as atomics: INFO never waits for Python. */
#include "info.h"

#include <stdio.h>
#include <sys/resource.h>

#include "bridge.h"
#include "command.h"
#include "model.h"
#include "options.h"
#include "queue.h"
#include "rdb.h"
#include "script.h"
#include "stats.h"

static const char *version_fields[] = {
    [BACKEND_TF] = "TensorFlow_version",
    [BACKEND_TFLITE] = "TensorFlowLite_version",
    [BACKEND_TORCH] = "Torch_version",
    [BACKEND_ONNX] = "onnxruntime_version",
};
#define BACKENDS ((int)(sizeof(version_fields) / sizeof(version_fields[0])))

static const char *versions[BACKENDS]; /* atomic; NULL: not loaded; once set it stays */
static struct {
    int64_t memory, accesses, sessions; /* atomic */
} onnx;

void bridge_backend_loaded(int backend, const char *version) {
    if (backend < 0 || backend >= BACKENDS || __atomic_load_n(&versions[backend], __ATOMIC_ACQUIRE)) return;
    __atomic_store_n(&versions[backend], RedisModule_Strdup(version), __ATOMIC_RELEASE);
}

void bridge_onnx_figures(int64_t memory, int64_t accesses, int64_t sessions) {
    __atomic_store_n(&onnx.memory, memory, __ATOMIC_RELAXED);
    __atomic_store_n(&onnx.accesses, accesses, __ATOMIC_RELAXED);
    __atomic_store_n(&onnx.sessions, sessions, __ATOMIC_RELAXED);
}

/* ---- INFO -------------------------------------------------------------------------------------------------------- */

static double seconds(struct timeval time) {
    return time.tv_sec + time.tv_usec / 1e6;
}

/* Bytes of memory that is not Redis's: of libraries and Python, and what allocators keep in reserve. Which allocator
 * the libraries use differs from server to server, so nothing but the process as a whole can be asked. */
static int64_t memory_beyond_redis(void) {
    char line[128];
    long long resident = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (status == NULL) return 0;
    while (fgets(line, sizeof(line), status) && sscanf(line, "RssAnon: %lld kB", &resident) != 1) {
    }
    fclose(status);
    int failed;
    RedisModuleServerInfoData *server = RedisModule_GetServerInfo(NULL, "memory");
    long long used = RedisModule_ServerInfoGetFieldSigned(server, "used_memory", &failed);
    RedisModule_FreeServerInfo(NULL, server);
    return resident * 1024 > used ? resident * 1024 - used : 0;
}

static void add_cpu(RedisModuleInfoCtx *ctx) {
    struct rusage self, children, thread;
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    getrusage(RUSAGE_THREAD, &thread);
    RedisModule_InfoAddFieldDouble(ctx, "self_used_cpu_sys", seconds(self.ru_stime));
    RedisModule_InfoAddFieldDouble(ctx, "self_used_cpu_user", seconds(self.ru_utime));
    RedisModule_InfoAddFieldDouble(ctx, "children_used_cpu_sys", seconds(children.ru_stime));
    RedisModule_InfoAddFieldDouble(ctx, "children_used_cpu_user", seconds(children.ru_utime));
    RedisModule_InfoAddFieldDouble(ctx, "main_thread_used_cpu_sys", seconds(thread.ru_stime));
    RedisModule_InfoAddFieldDouble(ctx, "main_thread_used_cpu_user", seconds(thread.ru_utime));

    int queues = queue_count();
    for (int i = 0; i < queues; i++) {
        for (int n = 0; n < options.engine.threads_per_queue; n++) {
            double used = queue_worker_cpu(queue_at(i), n);
            char field[64];
            if (used < 0) continue;
            /* "_n1" for the first: the numbering that dashboards know. */
            snprintf(field, sizeof(field), "queue_%s_bthread_n%d_used_cpu_total", queue_device(queue_at(i)), n + 1);
            RedisModule_InfoAddFieldDouble(ctx, field, used);
        }
    }
}

static void add_backends(RedisModuleInfoCtx *ctx) {
    for (int i = 0; i < BACKENDS; i++) {
        const char *version = __atomic_load_n(&versions[i], __ATOMIC_ACQUIRE);
        if (version) RedisModule_InfoAddFieldCString(ctx, version_fields[i], version);
    }
    if (__atomic_load_n(&versions[BACKEND_ONNX], __ATOMIC_ACQUIRE) == NULL) return;
    RedisModule_InfoAddFieldLongLong(ctx, "onnxruntime_memory", __atomic_load_n(&onnx.memory, __ATOMIC_RELAXED));
    RedisModule_InfoAddFieldLongLong(ctx, "onnxruntime_memory_access_num",
                                     __atomic_load_n(&onnx.accesses, __ATOMIC_RELAXED));
    RedisModule_InfoAddFieldLongLong(ctx, "onnxruntime_maximum_run_sessions_number",
                                     __atomic_load_n(&onnx.sessions, __ATOMIC_RELAXED));
}

static void add_sections(RedisModuleInfoCtx *ctx, int for_crash_report) {
    if (RedisModule_InfoAddSection(ctx, "versions") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldCString(ctx, "RedisAI_version", REDISAI_VERSION);
        RedisModule_InfoAddFieldCString(ctx, "low_level_API_version", "1");
        RedisModule_InfoAddFieldLongLong(ctx, "rdb_version", RDB_ENCODING_VERSION);
    }
    if (RedisModule_InfoAddSection(ctx, "git") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldCString(ctx, "git_sha", REDISAI_GIT_SHA);
    }
    if (RedisModule_InfoAddSection(ctx, "load_time_configs") == REDISMODULE_OK) {
        const Options *engine = &options.engine;
        RedisModule_InfoAddFieldLongLong(ctx, "threads_per_queue", engine->threads_per_queue);
        RedisModule_InfoAddFieldLongLong(ctx, "inter_op_parallelism", engine->inter_op_parallelism);
        RedisModule_InfoAddFieldLongLong(ctx, "intra_op_parallelism", engine->intra_op_parallelism);
        RedisModule_InfoAddFieldLongLong(ctx, "model_execution_timeout", engine->model_execution_timeout);
        RedisModule_InfoAddFieldLongLong(ctx, "backend_memory_limit", engine->backend_memory_limit);
    }
    if (RedisModule_InfoAddSection(ctx, "backends_info") == REDISMODULE_OK) add_backends(ctx);
    /* A server that has crashed cannot be asked. */
    if (!for_crash_report && RedisModule_InfoAddSection(ctx, "memory") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldLongLong(ctx, "backends_memory", memory_beyond_redis());
    }
    if (RedisModule_InfoAddSection(ctx, "cpu") == REDISMODULE_OK) add_cpu(ctx);
}

/* ---- AI.INFO ----------------------------------------------------------------------------------------------------- */

static int info_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 2 || argc > 3) return reply_wrong_arity(ctx, argv);
    Runnable *runnable = NULL;
    RedisModuleKey *key = RedisModule_OpenKey(ctx, argv[1], REDISMODULE_READ);
    if (key) {
        RedisModuleType *type = RedisModule_ModuleTypeGetType(key);
        if (type == ModelType || type == ScriptType) runnable = RedisModule_ModuleTypeGetValue(key);
        RedisModule_CloseKey(key);
    }
    if (runnable == NULL) return reply_error(ctx, "cannot find run info for key");

    if (argc == 3) {
        if (arg_is(argv[2], "RESETSTAT")) {
            stats_reset(runnable);
            return reply_ok(ctx);
        }
        if (!arg_is(argv[2], "FULL")) return reply_error(ctx, "unsupported subcommand");
    }
    stats_reply(ctx, argv[1], runnable, argc == 3);
    return REDISMODULE_OK;
}

int info_register(RedisModuleCtx *ctx) {
    if (RedisModule_RegisterInfoFunc(ctx, add_sections) == REDISMODULE_ERR) return REDISMODULE_ERR;
    return RedisModule_CreateCommand(ctx, "AI.INFO", info_command, "readonly", 1, 1, 1);
}
