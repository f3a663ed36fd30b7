/* info.c - the sections that the module adds to INFO, and AI.INFO. Main thread. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "bridge.h"
#include "commands/commands.h"
#include "engine/jobs.h"
#include "engine/options.h"
#include "engine/running.h"
#include "isolation/isolation.h"
#include "redis/clock.h"
#include "redis/command.h"
#include "run/limits.h"
#include "run/queue.h"
#include "run/run.h"
#include "values/backend.h"
#include "values/cache.h"
#include "values/model.h"
#include "values/rdb.h"
#include "values/script.h"

/* Whether the server has its data, and has compiled what it found there, or has failed to. */
static int is_ready(void) {
    return jobs_early() == 0 && !(RedisModule_GetContextFlags(log_context) & REDISMODULE_CTX_FLAGS_LOADING);
}

/* ---- INFO -------------------------------------------------------------------------------------------------------- */

static void add_seconds(RedisModuleInfoCtx *ctx, const char *field, double seconds) {
    char value[32];
    snprintf(value, sizeof(value), "%.6f", seconds);
    RedisModule_InfoAddFieldCString(ctx, field, value);
}

/* Bytes of memory that is not Redis's: of libraries and Python, and what allocators keep in reserve, with that of
 * engine processes. The libraries' allocator differs from server to server, so the memory of the whole process is read.
 */
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
    int64_t memory = isolation_memory();
    return memory + (resident * 1024 > used ? resident * 1024 - used : 0);
}

static void add_usage(RedisModuleInfoCtx *ctx, const char *name, int who) {
    char field[64];
    struct rusage usage;
    getrusage(who, &usage);
    snprintf(field, sizeof(field), "%s_used_cpu_sys", name);
    add_seconds(ctx, field, usage.ru_stime.tv_sec + usage.ru_stime.tv_usec / 1e6);
    snprintf(field, sizeof(field), "%s_used_cpu_user", name);
    add_seconds(ctx, field, usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6);
}

/* The queue "CPU" counts, and is reported, before it is there. */
static const Queue *cpu_queue(void) {
    int queues = queue_count();
    for (int i = 0; i < queues; i++) {
        if (strcmp(queue_device(queue_at(i)), "CPU") == 0) return queue_at(i);
    }
    return NULL;
}

static void add_queue(RedisModuleInfoCtx *ctx, const char *device, const Queue *queue) {
    for (int n = 0; n < threads_per_queue(); n++) {
        double used = queue ? queue_worker_cpu(queue, n) : 0;
        char field[64];
        snprintf(field, sizeof(field), WORKER_NAME "_used_cpu_total", device, n + 1);
        add_seconds(ctx, field, used < 0 ? 0 : used);
    }
}

static void add_cpu(RedisModuleInfoCtx *ctx) {
    add_usage(ctx, "self", RUSAGE_SELF);
    add_usage(ctx, "children", RUSAGE_CHILDREN);
    add_usage(ctx, "main_thread", RUSAGE_THREAD);
    const Queue *cpu = cpu_queue();
    add_queue(ctx, "CPU", cpu);
    int queues = queue_count();
    for (int i = 0; i < queues; i++) {
        if (queue_at(i) != cpu) add_queue(ctx, queue_device(queue_at(i)), queue_at(i));
    }
}

static void add_onnx(RedisModuleInfoCtx *ctx) {
    OnnxFigures onnx = {0};
    backend_add_figures(&onnx, NULL);
    isolation_add_figures(&onnx);
    int queues = queue_count() + (cpu_queue() == NULL);
    RedisModule_InfoAddFieldLongLong(ctx, "onnxruntime_memory", onnx.memory);
    RedisModule_InfoAddFieldLongLong(ctx, "onnxruntime_memory_access_num", onnx.accesses);
    RedisModule_InfoAddFieldLongLong(ctx, "onnxruntime_maximum_run_sessions_number", threads_per_queue() * queues);
}

static void add_backends(RedisModuleInfoCtx *ctx) {
    for (int i = 0; backend_row(i); i++) {
        if (backend_version(i)) RedisModule_InfoAddFieldCString(ctx, backend_row(i)->version_field, backend_version(i));
    }
    if (backend_version(BACKEND_ONNX)) add_onnx(ctx);
    for (int i = 0; backend_row(i); i++) {
        char field[32];
        snprintf(field, sizeof(field), "%s_advice", backend_name(i));
        if (backend_advice(i)) RedisModule_InfoAddFieldCString(ctx, field, backend_advice(i));
    }
}

static void add_process(void *ctx, const ProcessFigures *process) {
    char name[32], value[512];
    snprintf(name, sizeof(name), "process_%s", process->device);
    snprintf(value, sizeof(value), "state=%s,pid=%lld,uptime=%lld,memory=%lld,starts=%lld,deaths=%lld,last_death=%s",
             process->state, (long long)process->pid, (long long)process->uptime, (long long)process->memory,
             (long long)process->starts, (long long)process->deaths, process->last_death);
    RedisModule_InfoAddFieldCString(ctx, name, value);
}

static void add_running(void *ctx, const char *thread, const char *what, int64_t ns) {
    char value[256];
    snprintf(value, sizeof(value), "%s,ms=%lld", what, (long long)ns / 1000000);
    RedisModule_InfoAddFieldCString(ctx, thread, value);
}

static void add_totals(RedisModuleInfoCtx *ctx) {
    Totals all = {0};
    for (int i = 0; i < queue_count(); i++) {
        Totals one = queue_totals(queue_at(i));
        int64_t *sums = (int64_t *)&all;
        for (size_t k = 0; k < sizeof(all) / sizeof(*sums); k++) sums[k] += ((const int64_t *)&one)[k];
    }
    CacheFigures cache = cache_all_figures();
    const struct {
        const char *field;
        int64_t number;
    } fields[] = {{"total_calls", all.calls},
                  {"total_errors", all.errors},
                  {"total_executions", all.executions},
                  {"total_duration", all.duration},
                  {"total_queue_duration", all.queued},
                  {"total_timeouts", run_given_up(RUN_TIMEDOUT)},
                  {"total_abandoned", run_given_up(RUN_GONE)},
                  {"total_cache_hits", run_lookups(1)},
                  {"total_cache_misses", run_lookups(0)},
                  {"cache_entries", cache.entries},
                  {"cache_bytes", cache.bytes}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        RedisModule_InfoAddFieldLongLong(ctx, fields[i].field, fields[i].number);
    }
}

static void add_device(RedisModuleInfoCtx *ctx, const Queue *queue) {
    char name[32], value[256];
    Totals totals = queue_totals(queue);
    snprintf(name, sizeof(name), "device_%s", queue_device(queue));
    snprintf(value, sizeof(value), "calls=%lld,errors=%lld,executions=%lld,duration=%lld,queue_duration=%lld",
             (long long)totals.calls, (long long)totals.errors, (long long)totals.executions,
             (long long)totals.duration, (long long)totals.queued);
    RedisModule_InfoAddFieldCString(ctx, name, value);
}

static void (*add_more)(RedisModuleInfoCtx *ctx);

static void add_sections(RedisModuleInfoCtx *ctx, int for_crash_report) {
    if (RedisModule_InfoAddSection(ctx, "versions") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldCString(ctx, "RedisAI_version", REDISAI_VERSION);
        RedisModule_InfoAddFieldCString(ctx, "low_level_API_version", "0"); /* there is none for other modules */
        RedisModule_InfoAddFieldLongLong(ctx, "rdb_version", RDB_ENCODING_VERSION);
    }
    if (RedisModule_InfoAddSection(ctx, "git") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldCString(ctx, "git_sha", REDISAI_GIT_SHA);
    }
    if (RedisModule_InfoAddSection(ctx, "load_time_configs") == REDISMODULE_OK) {
        for (int i = 0; option_row(i); i++) {
            const OptionRow *row = option_row(i);
            const Option *option = &row->python;
            if (row->words) {
                RedisModule_InfoAddFieldCString(ctx, option->name, row->words[option->value]);
            } else {
                RedisModule_InfoAddFieldLongLong(ctx, option->name, option->value);
            }
        }
    }
    if (RedisModule_InfoAddSection(ctx, "backends_info") == REDISMODULE_OK) add_backends(ctx);
    if (RedisModule_InfoAddSection(ctx, "cpu") == REDISMODULE_OK) add_cpu(ctx);
    /* Readers go by the place of the sections, so those that deployed servers do not have come last. */
    if (!for_crash_report && RedisModule_InfoAddSection(ctx, "processes") == REDISMODULE_OK) {
        isolation_report(add_process, ctx);
    }
    if (RedisModule_InfoAddSection(ctx, "running") == REDISMODULE_OK) running_report(add_running, ctx);
    /* A server that has crashed cannot be asked. */
    if (!for_crash_report && RedisModule_InfoAddSection(ctx, "memory") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldLongLong(ctx, "backends_memory", memory_beyond_redis());
    }
    if (RedisModule_InfoAddSection(ctx, "queued") == REDISMODULE_OK) {
        ServerFigures figures = limits_figures();
        RedisModule_InfoAddFieldLongLong(ctx, "queued_runs", figures.runs);
        RedisModule_InfoAddFieldLongLong(ctx, "queued_bytes", figures.bytes);
        RedisModule_InfoAddFieldLongLong(ctx, "refused_runs", figures.refused);
    }
    if (RedisModule_InfoAddSection(ctx, "devices") == REDISMODULE_OK) {
        for (int i = 0; i < queue_count(); i++) add_device(ctx, queue_at(i));
    }
    if (RedisModule_InfoAddSection(ctx, "totals") == REDISMODULE_OK) add_totals(ctx);
    if (RedisModule_InfoAddSection(ctx, "start") == REDISMODULE_OK) {
        RedisModule_InfoAddFieldLongLong(ctx, "ready", is_ready());
        RedisModule_InfoAddFieldLongLong(ctx, "pending", jobs_early());
    }
    if (add_more) add_more(ctx);
}

void info_set_more(void (*add)(RedisModuleInfoCtx *ctx)) { add_more = add; }

/* ---- AI.INFO ----------------------------------------------------------------------------------------------------- */

static void reply_times(RedisModuleCtx *ctx, const char *what, Times times) {
    const struct {
        const char *name;
        int64_t time;
    } fields[] = {{"mean", times.mean}, {"p50", times.p50}, {"p99", times.p99}, {"max", times.max}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        char field[32];
        snprintf(field, sizeof(field), "%s_time_%s", what, fields[i].name);
        reply_number(ctx, field, fields[i].time);
    }
}

/* What BATCHSIZE auto does, and why: us per row by how many rows a run has. */
static void reply_tuning(RedisModuleCtx *ctx, const Tuning *tuning) {
    char times[32 * AUTO_SIZES] = "";
    int length = 0;
    for (int i = 0; i < AUTO_SIZES; i++) {
        double ns = (double)stats_get(&tuning->costs[i]);
        if (ns == 0) continue;
        length += snprintf(times + length, 32, "%s%d=%.1f", length ? "," : "", 1 << i, ns < 1e15 ? ns / 1000 : 1e12);
    }
    reply_number(ctx, "auto_batchsize", stats_get(&tuning->rows));
    reply_number(ctx, "auto_wait", stats_get(&tuning->wait) / 1000);
    reply_text(ctx, "auto_row_times", times);
    int64_t in_batches = stats_get(&tuning->rates[0]), alone = stats_get(&tuning->rates[1]);
    snprintf(times, sizeof(times), "batches=%lld,alone=%lld", (long long)in_batches, (long long)alone);
    reply_text(ctx, "auto_rates", in_batches || alone ? times : "");
}

/* Pairs of a power of two, of which the last stands for any number, and how many executions had so many rows. */
static void reply_batches(RedisModuleCtx *ctx, const Stats *stats) {
    int64_t pairs[2 * BATCH_BUCKETS];
    int count = 0;
    for (int i = 0; i < BATCH_BUCKETS; i++) {
        int64_t batches = stats_get(&stats->batches[i]);
        if (batches == 0) continue;
        pairs[count++] = i + 1 < BATCH_BUCKETS ? 1LL << i : -1;
        pairs[count++] = batches;
    }
    RedisModule_ReplyWithCString(ctx, "batch_rows");
    RedisModule_ReplyWithArray(ctx, count);
    for (int i = 0; i < count; i++) RedisModule_ReplyWithLongLong(ctx, pairs[i]);
}

/* In ms since 1970; 0: it has not run. */
static int64_t last_run(const Stats *stats) {
    int64_t last = stats_get(&stats->last);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return last ? now.tv_sec * 1000LL + (now.tv_nsec - (monotonic_ns() - last)) / 1000000 : 0;
}

static void reply_durations(RedisModuleCtx *ctx, const Stats *stats, int64_t queue_duration) {
    int64_t input = stats_get(&stats->input_ns) / 1000, output = stats_get(&stats->output_ns) / 1000;
    int64_t infer = stats_get(&stats->duration) - input - output;
    reply_number(ctx, "queue_duration", queue_duration);
    reply_number(ctx, "input_duration", input);
    reply_number(ctx, "infer_duration", infer > 0 ? infer : 0);
    reply_number(ctx, "output_duration", output);
}

static void reply_slowest(RedisModuleCtx *ctx, const Slowest *slowest) {
    SlowRun runs[SLOWEST_RUNS];
    int count = slowest_get(slowest, runs);
    RedisModule_ReplyWithCString(ctx, "slowest");
    RedisModule_ReplyWithArray(ctx, count);
    for (const SlowRun *run = runs; run < runs + count; run++) {
        RedisModule_ReplyWithArray(ctx, 12);
        reply_number(ctx, "time_ms", run->time);
        reply_number(ctx, "rows", run->rows);
        reply_number(ctx, "queue_us", run->queued);
        reply_number(ctx, "run_us", run->duration);
        reply_number(ctx, "client", (int64_t)run->client);
        reply_text(ctx, "function", run->function);
    }
}

static void reply_full(RedisModuleCtx *ctx, const Runnable *runnable, int is_model) {
    const Stats *stats = &runnable->state->stats;
    int64_t executions = stats_get(&stats->executions);
    Times queue_times = stats_times(&stats->queue_times);
    double batch = executions ? (double)stats_get(&stats->samples) / executions : 0;
    reply_number(ctx, "executions", executions);
    reply_number(ctx, "direct_executions", stats_get(&stats->direct_executions));
    RedisModule_ReplyWithCString(ctx, "average_batch");
    RedisModule_ReplyWithDouble(ctx, is_model ? batch : -1);
    reply_times(ctx, "queue", queue_times);
    reply_times(ctx, "run", stats_times(&stats->run_times));
    reply_number(ctx, "deaths", stats_get(&stats->deaths));
    reply_number(ctx, "queued", limits_waiting(runnable));
    reply_number(ctx, "refused", stats_get(&stats->refused));
    CacheFigures cache = is_model ? cache_figures((const Model *)runnable) : (CacheFigures){0};
    reply_number(ctx, "cache_hits", stats_get(&stats->cache_hits));
    reply_number(ctx, "cache_misses", stats_get(&stats->cache_misses));
    reply_number(ctx, "cache_entries", cache.entries);
    reply_number(ctx, "cache_bytes", cache.bytes);
    reply_durations(ctx, stats, queue_times.sum);
    reply_number(ctx, "timeouts", stats_get(&stats->timeouts));
    reply_number(ctx, "abandoned", stats_get(&stats->abandoned));
    reply_number(ctx, "last_run", last_run(stats));
    reply_batches(ctx, stats);
    reply_slowest(ctx, &runnable->state->slowest);
}

static void reply_stats(RedisModuleCtx *ctx, RedisModuleString *key, const Runnable *runnable, int full) {
    const Stats *stats = &runnable->state->stats;
    int is_model = runnable->kind == KIND_MODEL;
    int is_tuned = full && is_model && ((const Model *)runnable)->limits.batchsize == AUTO_BATCHSIZE;
    RedisModule_ReplyWithArray(ctx, (full ? 18 + 54 : 18) + (is_tuned ? 8 : 0));
    RedisModule_ReplyWithCString(ctx, "key");
    RedisModule_ReplyWithString(ctx, key);
    reply_text(ctx, "type", is_model ? "MODEL" : "SCRIPT");
    reply_text(ctx, "backend", backend_name(runnable->backend));
    reply_text(ctx, "device", runnable->device);
    RedisModule_ReplyWithCString(ctx, "tag");
    RedisModule_ReplyWithStringBuffer(ctx, runnable->tag, runnable->tag_size);
    reply_number(ctx, "duration", stats_get(&stats->duration));
    reply_number(ctx, "samples", is_model ? stats_get(&stats->samples) : -1);
    reply_number(ctx, "calls", stats_get(&stats->calls));
    reply_number(ctx, "errors", stats_get(&stats->errors));
    if (full) reply_full(ctx, runnable, is_model);
    if (is_tuned) reply_tuning(ctx, &runnable->state->tuning);
}

static int reply_state(RedisModuleCtx *ctx) {
    RedisModule_ReplyWithArray(ctx, 4);
    reply_number(ctx, "ready", is_ready());
    reply_number(ctx, "pending", jobs_early());
    return REDISMODULE_OK;
}

static int info_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc == 1) return reply_state(ctx);
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
            if (!keys_are_permitted(ctx, &argv[1], 1, REDISMODULE_CMD_KEY_UPDATE)) {
                return RedisModule_ReplyWithError(ctx, "NOPERM AI.INFO RESETSTAT needs the right to write the key");
            }
            stats_reset(&runnable->state->stats);
            slowest_reset(&runnable->state->slowest);
            return reply_ok(ctx);
        }
        if (!arg_is(argv[2], "FULL")) return reply_error(ctx, "unsupported subcommand");
    }
    reply_stats(ctx, argv[1], runnable, argc == 3);
    return REDISMODULE_OK;
}

COMMAND(info, .name = "AI.INFO", .flags = "readonly", .arity = -1, .most_words = 3, .keys = {{"key", KEY_READ}},
        .syntax = "[key [action: FULL | RESETSTAT]]", .tips = "nondeterministic_output",
        .summary = "Returns or resets the run statistics of a model or script, or says whether the server is ready");

int info_register(RedisModuleCtx *ctx) { return RedisModule_RegisterInfoFunc(ctx, add_sections); }

const Command *const info_commands[] = {&info, NULL};
