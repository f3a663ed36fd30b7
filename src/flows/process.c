/* process.c - the flow process: its start and its end (flows.h).
 *
 * The main thread decides. For each start there is a thread that spawns the process and waits until it has ended: so
 * nobody waits on the main thread, and the process gets the signal of its parent's death. No locks: what both know is
 * handed over by tasks. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/interpreter.h"
#include "engine/options.h"
#include "engine/spawn.h"
#include "flows/flows.h"
#include "redis/clock.h"

#define CHECK_MS 5000
#define MAX_LATE 6               /* checks in a row: to show its secret, or to take messages */
#define SETTLED_NS 10000000000LL /* one that has lived for so long has not failed to start */
#define MAX_PAUSE_S 10           /* between starts; the first comes at once */
#define CRASH_NS 60000000000LL   /* one that ends within this time may end so each time */
#define MAX_CRASHES 3            /* then it starts without running flows */
#define REST_S 60                /* for so long */
#define SECRET_BYTES 32

/* One life of the process. The thread's, but for the tasks, which hand it to the main thread. */
typedef struct Life {
    Task begun, ended; /* begun first: a task is cast to its life */
    int child;         /* the process's end of the socket */
    pid_t pid;
    int pidfd;
    char reason[128];
} Life;

typedef enum { DOWN, STARTING, UP, ENDING } State;
static const char *const states[] = {"down", "starting", "up", "ending"};

static struct {
    State state;
    Life *life; /* once the process is there */
    int socket; /* the server's end; -1: none */
    char secret[2 * SECRET_BYTES + 1];
    char end_reason[128]; /* why the server ends it; empty: it does not */
    int is_guilty;        /* because it has broken a rule */
    int is_asked;         /* a command has needed it */
    int has_timer;        /* it shall not start before */
    int is_posted, is_other;
    int64_t started; /* ns; names the start, too */
    int64_t starts, deaths;
    int failures; /* in a row */
    int crashes;  /* in a row, of one that had connected */
    int late;     /* checks in a row */
    int is_config_new;
    char last_death[128];
} process = {.socket = -1, .last_death = "none"};

static char python[PATH_MAX];
static int haste = 1; /* tests set it (REDISAI_FLOWS_HASTE): checks, pauses and rests pass so many times faster */

typedef struct Header {
    char text[16384];
    size_t size;
} Header;

static Header told; /* the settings that this process has been told */

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static int spawn(Life *life) {
    char script[PATH_MAX];
    snprintf(script, sizeof(script), "%s/flows/process.py", options_module_folder());
    char *arguments[] = {python, "-I", script, NULL};
    return spawn_python(python, arguments, &life->child, 1, &life->pid);
}

/* Redis waits for any child while one of its own runs, and may take the status away. */
static void take_reason(Life *life) {
    int status;
    if (waitpid(life->pid, &status, 0) != life->pid) {
        snprintf(life->reason, sizeof(life->reason), "unknown reason");
    } else if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(life->reason, sizeof(life->reason), "SIG%s", name ? name : "?");
    } else {
        snprintf(life->reason, sizeof(life->reason), "exit status %d", WEXITSTATUS(status));
    }
}

static void *watch(void *data) {
    Life *life = data;
    int error = spawn(life);
    close(life->child);
    if (error) {
        snprintf(life->reason, sizeof(life->reason), "%.60s cannot be started: %.40s", python, strerror(error));
    } else {
        life->pidfd = (int)syscall(SYS_pidfd_open, life->pid, 0);
        event_loop_post(&life->begun);
        struct pollfd ended = {.fd = life->pidfd, .events = POLLIN};
        while (life->pidfd != -1 && poll(&ended, 1, -1) == -1 && errno == EINTR) continue;
        kill(-life->pid, SIGKILL); /* what it has started; its number is not free before waitpid */
        take_reason(life);
    }
    event_loop_post(&life->ended);
    return NULL;
}

/* ---- what the process is told first ------------------------------------------------------------------------------ */

static void add_line(Header *header, const char *name, const char *value, size_t size) {
    size_t left = sizeof(header->text) - header->size;
    if (size == 0 || strlen(name) + size + 3 > left || memchr(value, '\n', size)) return;
    header->size += snprintf(header->text + header->size, left, "%s %.*s\n", name, (int)size, value);
}

static void add_text(Header *header, const char *name, const char *value) {
    add_line(header, name, value, strlen(value));
}

/* The address by which the server reaches itself. bind: addresses; each may begin with '-'. */
static void add_host(Header *header, const char *bind, size_t size) {
    char addresses[512], *rest = addresses, *address;
    snprintf(addresses, sizeof(addresses), "%.*s", (int)size, bind);
    const char *host = NULL;
    while ((address = strtok_r(rest, " ", &rest))) {
        if (*address == '-') address++;
        if (strcmp(address, "*") == 0 || strcmp(address, "0.0.0.0") == 0) address = "127.0.0.1";
        if (strcmp(address, "::*") == 0 || strcmp(address, "::") == 0) address = "::1";
        if (host == NULL || strcmp(address, "127.0.0.1") == 0) host = address;
    }
    add_text(header, "host", host ? host : "127.0.0.1");
}

static void add_setting(Header *header, const char *name, const char *value, size_t size) {
    char line[64];
    if (strcmp(name, "bind") == 0) {
        add_host(header, value, size);
        return;
    }
    if (strcmp(name, "dir") == 0) {
        char folder[PATH_MAX];
        snprintf(folder, sizeof(folder), "%.*s/flows-packages", (int)size, value);
        add_text(header, "dir", folder);
        return;
    }
    snprintf(line, sizeof(line), "%s", name);
    for (char *at = line; *at; at++) *at = *at == '-' ? '_' : *at;
    add_line(header, line, value, size);
}

static void add_settings(Header *header) {
    RedisModuleCallReply *reply = RedisModule_Call(
        log_context, "CONFIG", "cccccccccccc", "GET", "bind", "port", "unixsocket", "tls-port", "tls-cert-file",
        "tls-key-file", "tls-key-file-pass", "tls-ca-cert-file", "tls-ca-cert-dir", "tls-auth-clients", "dir");
    for (size_t i = 0; reply && i + 1 < RedisModule_CallReplyLength(reply); i += 2) {
        char name[64];
        size_t name_size, size;
        const char *told = RedisModule_CallReplyStringPtr(RedisModule_CallReplyArrayElement(reply, i), &name_size);
        const char *value = RedisModule_CallReplyStringPtr(RedisModule_CallReplyArrayElement(reply, i + 1), &size);
        if (told == NULL || value == NULL) continue;
        snprintf(name, sizeof(name), "%.*s", (int)name_size, told);
        add_setting(header, name, value, size);
    }
    if (reply) RedisModule_FreeCallReply(reply);
}

static void add_node_id(Header *header) {
    RedisModuleCallReply *reply = NULL;
    size_t size = 0;
    if (RedisModule_GetContextFlags(log_context) & REDISMODULE_CTX_FLAGS_CLUSTER) {
        reply = RedisModule_Call(log_context, "CLUSTER", "c", "MYID");
    }
    const char *id = reply ? RedisModule_CallReplyStringPtr(reply, &size) : NULL;
    if (id) add_line(header, "node_id", id, size);
    if (reply) RedisModule_FreeCallReply(reply);
    if (id) return;
    RedisModuleServerInfoData *info = RedisModule_GetServerInfo(log_context, "server");
    id = RedisModule_ServerInfoGetFieldC(info, "run_id");
    if (id) add_text(header, "node_id", id);
    RedisModule_FreeServerInfo(log_context, info);
}

/* Whether all of it has gone into the socket, whose buffer holds more than that. */
static int send_header(void) {
    char limit[32], rest[32];
    Header header = {.size = 0};
    snprintf(limit, sizeof(limit), "%lld", (long long)flows_memory_limit() * MB);
    snprintf(rest, sizeof(rest), "%d", process.crashes >= MAX_CRASHES ? REST_S * 1000 / haste : 0);
    add_text(&header, "secret", process.secret);
    add_text(&header, "module_folder", options_module_folder());
    add_text(&header, "memory_limit", limit);
    add_text(&header, "rest_ms", rest);
    add_node_id(&header);
    told.size = 0;
    add_settings(&told);
    if (told.size + 1 > sizeof(header.text) - header.size) return 0;
    memcpy(header.text + header.size, told.text, told.size);
    header.size += told.size;
    header.text[header.size++] = '\n'; /* add_line leaves room */
    return send(process.socket, header.text, header.size, MSG_NOSIGNAL) == (ssize_t)header.size;
}

/* ---- the main thread --------------------------------------------------------------------------------------------- */

static void begun(RedisModuleCtx *ctx, Task *task);
static void ended(RedisModuleCtx *ctx, Task *task);
static int is_void(const Task *task) { return 1; } /* it writes nothing */

static void kill_now(void) {
    if (process.life) syscall(SYS_pidfd_send_signal, process.life->pidfd, SIGKILL, NULL, 0);
}

/* Nothing of this process counts any more, also before it has ended. */
static void disown(const char *error) {
    process.secret[0] = '\0';
    atomic_close();
    if (process.socket != -1) close(process.socket);
    process.socket = -1;
    events_forget();
    control_close_all();
    messages_fail(error);
}

static void end(const char *why, const char *error) {
    if (process.state == DOWN || process.state == ENDING) return;
    process.state = ENDING;
    snprintf(process.end_reason, sizeof(process.end_reason), "%s", why);
    disown(error);
    kill_now();
}

void flow_process_end(const char *why) {
    char error[256];
    snprintf(error, sizeof(error), "ERR the flow process ended: %s", why);
    end(why, error);
    process.is_guilty = 1;
}

static void check(RedisModuleCtx *ctx, void *data) {
    int64_t *started = data;
    int is_same = *started == process.started && (process.state == STARTING || process.state == UP);
    int is_late = messages_are_stuck() && !RedisModule_AvoidReplicaTraffic();
    process.late = is_same && (is_late || process.state == STARTING) ? process.late + 1 : 0;
    int most = process.state == STARTING ? MAX_LATE * haste : MAX_LATE; /* no start passes faster */
    if (is_same && process.late < most) {
        RedisModule_CreateTimer(ctx, CHECK_MS / haste, check, started);
        return;
    }
    RedisModule_Free(started);
    if (!is_same) return;
    flow_process_end(process.state == UP ? "it has taken no message for 30 s" : "it has not started within 30 s");
}

static void make_secret(void) {
    unsigned char bytes[SECRET_BYTES];
    RedisModule_GetRandomBytes(bytes, sizeof(bytes));
    for (int i = 0; i < SECRET_BYTES; i++) snprintf(process.secret + 2 * i, 3, "%02x", bytes[i]);
}

/* is_disowned: those who wait have come since then, and wait for the next one. */
static void failed(const char *reason, int is_disowned) {
    char error[256];
    process.deaths++;
    int is_settled = monotonic_ns() - process.started > SETTLED_NS;
    process.failures = is_settled ? 1 : process.failures + 1;
    snprintf(process.last_death, sizeof(process.last_death), "%s", reason);
    snprintf(error, sizeof(error), "ERR the flow process ended: %s; see the server's log", reason);
    RedisModule_Log(log_context, "warning", "flows: the flow process ended: %s", reason);
    if (!is_disowned) disown(error);
}

static void pause_is_over(RedisModuleCtx *ctx, void *unused) {
    process.has_timer = 0;
    flow_process_consider(0);
}

static void pause_starts(void) {
    int seconds = process.failures - 1 < MAX_PAUSE_S ? process.failures - 1 : MAX_PAUSE_S;
    process.has_timer = 1;
    RedisModule_CreateTimer(log_context, seconds * 1000 / haste, pause_is_over, NULL);
}

static void start(void) {
    int sockets[2];
    pthread_t thread;
    process.started = monotonic_ns();
    process.starts++;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets)) {
        failed("there is no socket for it", 0);
        pause_starts();
        return;
    }
    fcntl(sockets[0], F_SETFL, O_NONBLOCK);
    process.socket = sockets[0];
    make_secret();
    Life *life = RedisModule_Calloc(1, sizeof(*life));
    *life = (Life){.begun = {.perform = begun, .is_void = is_void}, .ended = {.perform = ended, .is_void = is_void}};
    life->child = sockets[1];
    life->pidfd = -1;
    if (!send_header() || pthread_create(&thread, NULL, watch, life)) {
        close(sockets[1]);
        RedisModule_Free(life);
        failed("there is no thread for it", 0);
        pause_starts();
        return;
    }
    pthread_detach(thread);
    process.state = STARTING;
    process.end_reason[0] = '\0';
    process.is_guilty = 0;
    atomic_open(process.socket);
    int64_t *started = RedisModule_Alloc(sizeof(*started));
    *started = process.started;
    process.late = 0;
    RedisModule_CreateTimer(log_context, CHECK_MS / haste, check, started);
}

static void begun(RedisModuleCtx *ctx, Task *task) {
    process.life = (Life *)task;
    if (process.state == ENDING) kill_now();
}

static void ended(RedisModuleCtx *ctx, Task *task) {
    Life *life = (Life *)((char *)task - offsetof(Life, ended));
    int is_planned = process.state == ENDING && !process.is_guilty;
    int is_crash = process.state == UP || (process.state == ENDING && process.is_guilty);
    int is_soon = monotonic_ns() - process.started < CRASH_NS;
    if (is_crash) process.crashes = is_soon ? process.crashes + 1 : 1;
    int is_disowned = process.state == ENDING;
    process.state = DOWN;
    process.life = NULL;
    if (is_planned) {
        RedisModule_Log(log_context, "notice", "flows: the server ended the flow process: %s", process.end_reason);
    } else {
        failed(process.is_guilty ? process.end_reason : life->reason, is_disowned);
        pause_starts();
    }
    if (life->pidfd != -1) close(life->pidfd);
    RedisModule_Free(life);
    flow_process_consider(0);
}

int flow_process_acts(RedisModuleCtx *ctx) {
    int flags = RedisModule_GetContextFlags(ctx);
    return (flags & REDISMODULE_CTX_FLAGS_MASTER) && !(flags & REDISMODULE_CTX_FLAGS_LOADING);
}

static void decide(RedisModuleCtx *ctx, Task *task) {
    int acts = flow_process_acts(ctx), is_other = process.is_other;
    process.is_posted = process.is_other = 0;
    if (!acts) {
        process.is_asked = 0;
        end("the server is not a master with data", "READONLY flows run on the master, and this is a replica now");
    } else if (is_other) {
        end("the server has loaded other data", "ERR the flow process ended: the server has loaded other data");
    }
    if (process.is_config_new && (process.state == STARTING || process.state == UP)) {
        Header now = {.size = 0};
        add_settings(&now);
        int is_same = now.size == told.size && memcmp(now.text, told.text, now.size) == 0;
        if (!is_same) end("settings that it needs have changed", "ERR the flow process ended: settings have changed");
    }
    process.is_config_new = 0;
    int is_wanted = registry_count() > 0 || process.is_asked;
    if (acts && is_wanted && process.state == DOWN && !process.has_timer) start();
}

static Task decision = {.perform = decide, .is_void = is_void};

void flow_process_consider(int is_other) {
    if (!flows_option()) return;
    process.is_other |= is_other;
    if (process.is_posted) return;
    process.is_posted = 1;
    event_loop_post(&decision);
}

void flow_process_ask(void) {
    if (process.is_asked) return;
    process.is_asked = 1;
    flow_process_consider(0);
}

void flow_process_note_connected(void) {
    if (process.state != STARTING) return;
    process.state = UP;
    process.late = 0;
}

int flow_process_has_secret(const RedisModuleString *secret) {
    size_t size;
    const char *given = RedisModule_StringPtrLen(secret, &size);
    if (size != 2 * SECRET_BYTES || process.secret[0] == '\0') return 0;
    int differs = 0;
    for (size_t i = 0; i < size; i++) differs |= given[i] ^ process.secret[i]; /* all: the time must tell nothing */
    return !differs;
}

void flow_process_report(RedisModuleInfoCtx *ctx) {
    if (!flows_option() || RedisModule_InfoAddSection(ctx, "flows") != REDISMODULE_OK) return;
    MessageFigures figures = messages_figures();
    RedisModule_InfoAddFieldCString(ctx, "process", states[process.state]);
    const struct {
        const char *field;
        int64_t number;
    } fields[] = {{"pid", process.life ? process.life->pid : 0},
                  {"starts", process.starts},
                  {"deaths", process.deaths},
                  {"registered", registry_count()},
                  {"requests_waiting", figures.requests},
                  {"events_waiting", figures.events},
                  {"events_dropped", figures.dropped}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        RedisModule_InfoAddFieldLongLong(ctx, fields[i].field, fields[i].number);
    }
    RedisModule_InfoAddFieldCString(ctx, "last_death", process.last_death);
}

static void role_changed(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    flow_process_consider(0);
}

static void config_changed(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    process.is_config_new = 1;
    flow_process_consider(0);
}

static void swapped(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    if (process.state == UP) messages_miss_streams();
}

int flow_process_init(RedisModuleCtx *ctx) {
    if (!flows_option()) return REDISMODULE_OK;
    const char *set = getenv("REDISAI_FLOWS_HASTE");
    if (set && atoi(set) > 0 && atoi(set) <= 100) haste = atoi(set);
    engine_stay_mapped();
    return engine_find_python(ctx, python, sizeof(python)) ||
           listen_to(ctx, REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, role_changed) ||
           listen_to(ctx, REDISMODULE_EVENT_CONFIG, config_changed) ||
           listen_to(ctx, REDISMODULE_EVENT_SWAPDB, swapped);
}
