/* process.c - engine processes: their start and their end (process.h, isolation.h).
 *
 * Any thread posts jobs. Main thread: the event that tells of results, and what isolation.h has. The carrier of each
 * process: everything else. Locks, both leaves: process.mutex; table.mutex, which guards the table and the imports. */
#include "isolation/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/interpreter.h"
#include "engine/options.h"
#include "engine/spawn.h"
#include "redis/latency.h"
#include "isolation/isolation.h"

#define MAX_PROCESSES 64
#define TICK_MS 100 /* how often the carrier looks at ops that run */
#define START_S 30  /* for a process to be up */
#define MAX_IMPORTS 64
#define MAX_FAILURES 3 /* starts in a row; then jobs fail instead of waiting */
#define MAX_PAUSE_S 10

static char python[PATH_MAX];
static int events; /* the event loop waits for it; it has the pipes of all processes */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t settled; /* of the first start of a process */
    int count;              /* atomic, like nimports */
    Process *processes[MAX_PROCESSES];
    int nimports;
    Import imports[MAX_IMPORTS]; /* immutable once counted */
} table = {.mutex = PTHREAD_MUTEX_INITIALIZER, .settled = PTHREAD_COND_INITIALIZER};

void process_wake_carrier(Process *process) {
    uint64_t one = 1;
    ssize_t ignored = write(process->wake_fd, &one, sizeof(one));
    (void)ignored;
}

void process_end(Process *process, int verdict, const char *why) {
    if (process->death.reason[0] == '\0') {
        process->death.verdict = verdict;
        snprintf(process->death.reason, sizeof(process->death.reason), "%s", why);
    }
    syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
}

const Import *process_import(int index) {
    return index < __atomic_load_n(&table.nimports, __ATOMIC_ACQUIRE) ? &table.imports[index] : NULL;
}

void process_add_import(const Process *by, int32_t backend, const char *path) {
    pthread_mutex_lock(&table.mutex);
    if (table.nimports < MAX_IMPORTS) {
        table.imports[table.nimports] =
            (Import){.backend = backend, .path = RedisModule_Strdup(path), .by = by, .start = by->starts};
        __atomic_store_n(&table.nimports, table.nimports + 1, __ATOMIC_RELEASE);
    }
    int processes = table.count;
    pthread_mutex_unlock(&table.mutex);
    for (int i = 0; i < processes; i++) process_wake_carrier(table.processes[i]);
}

/* ---- start and end ----------------------------------------------------------------------------------------------- */

/* New memory at the process's address. Returns the descriptor. */
static int make_memory(Process *process) {
    int fd = memfd_create("redisai", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd == -1) return -1;
    /* The process must not make it shorter: to read beyond its end would end the server. */
    if (ftruncate(fd, SHARED_TOTAL) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        close(fd);
        return -1;
    }
    pthread_mutex_lock(&process->mutex);
    void *at =
        mmap(process->shared, SHARED_TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (at != MAP_FAILED) {
        madvise(at, SHARED_TOTAL, MADV_DONTFORK);
        madvise(at, SHARED_TOTAL, MADV_DONTDUMP);
        process->submitted = process->completed = 0;
        process->is_lying = 0;
        arena_reset(&process->arena);
        process->shared->server_sleeps = 1;
    }
    pthread_mutex_unlock(&process->mutex);
    return at == MAP_FAILED ? -1 : fd;
}

static int spawn(Process *process, int socket, int status) {
    char script[PATH_MAX], module[PATH_MAX];
    snprintf(script, sizeof(script), "%s/redisai/process.py", options_module_folder());
    snprintf(module, sizeof(module), "%s/redisai.so", options_module_folder());
    char *arguments[] = {python, "-I", script, module, process->device, NULL};
    int fds[] = {socket, process->memory_fd, process->event_pipe[1], status}; /* from FD_SOCKET on */
    return spawn_python(python, arguments, fds, 4, &process->pid);
}

static void close_all(Process *process) {
    int *fds[] = {&process->socket, &process->status_fd, &process->memory_fd, &process->pidfd};
    for (int i = 0; i < 4; i++) {
        if (*fds[i] != -1) close(*fds[i]);
        *fds[i] = -1;
    }
}

static void start(Process *process) {
    int sockets[2] = {-1, -1}, status[2] = {-1, -1};
    process->death = (Death){0};
    pthread_mutex_lock(&process->mutex);
    process->state = PROCESS_STARTING;
    process->started = monotonic_ns();
    process->starts++;
    pthread_mutex_unlock(&process->mutex);
    process->memory_fd = make_memory(process);
    int error = process->memory_fd == -1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) ||
                        pipe2(status, O_CLOEXEC)
                    ? errno
                    : 0;
    if (!error) error = spawn(process, sockets[1], status[1]);
    if (sockets[1] != -1) close(sockets[1]);
    if (status[1] != -1) close(status[1]);
    process->socket = sockets[0];
    process->status_fd = status[0];
    if (error) {
        snprintf(process->death.reason, sizeof(process->death.reason), "%.150s cannot be started: %.80s", python,
                 strerror(error));
        return;
    }
    process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    messages_start(process);
}

/* The engine's parent tells two numbers by the pipe: its process id, and later how it ended. Both are ints. */
static int told(Process *process, int *number) {
    struct pollfd status = {.fd = process->status_fd, .events = POLLIN};
    return poll(&status, 1, 1000) == 1 && read(process->status_fd, number, sizeof(*number)) == sizeof(*number);
}

void process_learn_engine(Process *process) {
    int engine = 0;
    if (!told(process, &engine)) return;
    pthread_mutex_lock(&process->mutex);
    process->engine = engine;
    pthread_mutex_unlock(&process->mutex);
}

static void find_reason(Process *process, char *text, size_t size) {
    int status = 0;
    if (process->engine == 0) process_learn_engine(process);
    int got = process->engine && told(process, &status);
    if (got && WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(text, size, "SIG%s", name ? name : "?");
    } else if (got && WIFEXITED(status)) {
        snprintf(text, size, "exit status %d", WEXITSTATUS(status));
    } else {
        snprintf(text, size, "unknown reason");
    }
}

static void settle(Process *process) {
    pthread_mutex_lock(&table.mutex);
    process->is_settled = 1;
    pthread_cond_broadcast(&table.settled);
    pthread_mutex_unlock(&table.mutex);
}

static void bury(Process *process) {
    if (process->death.reason[0] == '\0') {
        find_reason(process, process->death.reason, sizeof(process->death.reason));
    }
    pthread_mutex_lock(&process->mutex);
    process->failures = process->state == PROCESS_UP ? 0 : process->failures + 1;
    process->state = PROCESS_DOWN;
    pid_t pid = process->pid;
    process->pid = process->engine = 0;
    process->deaths++;
    snprintf(process->last_death, sizeof(process->last_death), "%.63s", process->death.reason);
    pthread_mutex_unlock(&process->mutex);
    if (process->pidfd != -1) syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
    if (pid) kill(-pid, SIGKILL);   /* what it has started */
    if (pid) waitpid(pid, NULL, 0); /* unless Redis was faster */
    RedisModule_Log(log_context, "warning", "the engine process of %s ended: %s", process->device,
                    process->death.reason);
    close_all(process);
    carrier_abandon(process);
    messages_abandon(process, process->death.reason);
    settle(process);
}

/* ---- the carrier ------------------------------------------------------------------------------------------------- */

static void wait_for_anything(Process *process, int is_watching, int *has_message, int *has_ended) {
    struct pollfd fds[] = {{.fd = process->wake_fd, .events = POLLIN},
                           {.fd = process->socket, .events = POLLIN},
                           {.fd = process->pidfd, .events = POLLIN}};
    poll(fds, 3, is_watching ? TICK_MS : -1);
    uint64_t count;
    if (fds[0].revents) {
        ssize_t ignored = read(process->wake_fd, &count, sizeof(count));
        (void)ignored;
    }
    /* Processes that it has started may keep the other end of the socket. What it has sent itself is still read. */
    if (fds[2].revents) shutdown(process->socket, SHUT_RDWR);
    *has_message = (fds[1].revents & POLLIN) != 0;
    *has_ended = !*has_message && (fds[1].revents & (POLLHUP | POLLERR)) != 0;
}

/* Python may hang where it gets too little memory, and nobody else would notice. */
static void end_late_start(Process *process) {
    int is_late = process->state == PROCESS_STARTING && monotonic_ns() - process->started > START_S * 1000000000LL;
    if (is_late) process_end(process, DIED, "it has not started within 30 s");
}

static void run_process(Process *process) {
    int has_message = 0, has_ended = 0, is_watching = 1;
    start(process);
    while (!has_ended && process->death.reason[0] == '\0') {
        wait_for_anything(process, is_watching, &has_message, &has_ended);
        if (has_message && messages_take(process)) has_ended = 1;
        end_late_start(process);
        if (has_ended || process->state != PROCESS_UP) continue;
        if (!process->is_settled) settle(process);
        messages_send(process);
        carrier_work(process);
        is_watching = carrier_watch(process);
    }
    bury(process);
}

/* A process that cannot start must not keep a core busy, and its jobs must not wait for ever. */
static void pause_after_failures(Process *process) {
    char error[400];
    if (process->failures == 0) return;
    if (process->failures >= MAX_FAILURES) {
        snprintf(error, sizeof(error), "the engine process of %s cannot start: %s", process->device,
                 process->death.reason);
        messages_refuse_jobs(process, error);
    }
    struct timespec pause = {.tv_sec = process->failures < MAX_PAUSE_S ? process->failures : MAX_PAUSE_S};
    while (nanosleep(&pause, &pause) == -1) {
    }
}

static void *carry(void *data) {
    Process *process = data;
    for (;;) {
        run_process(process);
        pause_after_failures(process);
    }
    return NULL;
}

/* ---- the main thread --------------------------------------------------------------------------------------------- */

static void results_came(int fd, void *data, int mask) {
    int64_t begun = monotonic_ns();
    int processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) {
        char told[4096];
        ssize_t ignored = read(table.processes[i]->event_pipe[0], told, sizeof(told));
        (void)ignored;
        carrier_receive(table.processes[i]);
    }
    latency_note("redisai-results", begun);
}

static Process *new_process(const char *device) {
    Process *process = RedisModule_Calloc(1, sizeof(*process));
    process->consumer = carrier_consumer;
    snprintf(process->device, sizeof(process->device), "%s", device);
    process->queue = queue_open(device, &process->consumer);
    process->shared =
        mmap(NULL, SHARED_TOTAL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    process->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    process->socket = process->status_fd = process->memory_fd = process->pidfd = -1;
    snprintf(process->last_death, sizeof(process->last_death), "none");
    if (process->queue == NULL || process->shared == MAP_FAILED || process->wake_fd == -1) return NULL;
    if (pipe2(process->event_pipe, O_CLOEXEC | O_NONBLOCK)) return NULL;
    if (epoll_ctl(events, EPOLL_CTL_ADD, process->event_pipe[0], &(struct epoll_event){.events = EPOLLIN})) return NULL;
    pthread_mutex_init(&process->mutex, NULL);
    carrier_init(process);
    running_watch(process->device, process->shared->running, RUNNING_RECORDS);
    pthread_t thread;
    if (pthread_create(&thread, NULL, carry, process)) return NULL;
    pthread_detach(thread);
    return process;
}

/* NULL: there are too many. */
static Process *process_of(const char *device) {
    char name[QUEUE_NAME];
    bridge_queue_name(device, name);
    pthread_mutex_lock(&table.mutex);
    Process *process = NULL;
    for (int i = 0; i < table.count && process == NULL; i++) {
        if (strcmp(table.processes[i]->device, name) == 0) process = table.processes[i];
    }
    if (process == NULL && table.count < MAX_PROCESSES && (process = new_process(name))) {
        table.processes[table.count] = process;
        __atomic_store_n(&table.count, table.count + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&table.mutex);
    return process;
}

static void drop(LoaderJob *job) {
    Runnable *runnable = job->job.runnable;
    int processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) {
        Process *process = table.processes[i];
        if (!carrier_has_compiled(process, runnable)) continue;
        pthread_mutex_lock(&process->mutex);
        if (process->ndropped == process->dropped_capacity) {
            process->dropped_capacity = process->dropped_capacity * 2 + 16;
            process->dropped =
                RedisModule_Realloc(process->dropped, process->dropped_capacity * sizeof(*process->dropped));
        }
        process->dropped[process->ndropped++] = runnable->id;
        pthread_mutex_unlock(&process->mutex);
        process_wake_carrier(process);
    }
    bridge_finish_job(&job->job, NULL);
}

static void route(LoaderJob *job) {
    if (job->job.kind == JOB_DROP) {
        drop(job);
        return;
    }
    Process *process = process_of(job->job.runnable ? job->job.runnable->device : "CPU");
    if (process == NULL) {
        bridge_finish_job(&job->job, "too many device queues (64)");
        return;
    }
    job_queue_add(&process->jobs, job);
    process_wake_carrier(process);
}

/* Returns why the first process of the device cannot start, or NULL. */
static const char *wait_until_settled(Process *process) {
    pthread_mutex_lock(&table.mutex);
    while (!process->is_settled) pthread_cond_wait(&table.settled, &table.mutex);
    pthread_mutex_unlock(&table.mutex);
    return process->starts == 1 && process->death.reason[0] == '\0' ? NULL : process->last_death;
}

int isolation_start(RedisModuleCtx *ctx) {
    if (table.count) return REDISMODULE_OK; /* a load that was refused has started them */
    if (engine_find_python(ctx, python, sizeof(python))) return REDISMODULE_ERR;
    engine_stay_mapped();
    events = epoll_create1(EPOLL_CLOEXEC);
    if (events == -1) return log_refusal(ctx, "no events for engine processes: %s", strerror(errno));
    RedisModule_EventLoopAdd(events, REDISMODULE_EVENTLOOP_READABLE, results_came, NULL);
    jobs_set_router(route);
    Process *process = process_of("CPU");
    if (process == NULL) return log_refusal(ctx, "the engine process of CPU cannot be started");
    const char *error = wait_until_settled(process);
    if (error) return log_refusal(ctx, "the engine cannot start in %s: %s", python, error);
    RedisModule_Log(ctx, "notice", "models run in processes of %s", python);
    return REDISMODULE_OK;
}

int isolation_kill(uint64_t id) {
    int killed = 0, processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) {
        Process *process = table.processes[i];
        if (!carrier_runs(process, id)) continue;
        pthread_mutex_lock(&process->mutex);
        int is_free = process->to_kill == 0 || process->to_kill == id;
        if (is_free) process->to_kill = id;
        pthread_mutex_unlock(&process->mutex);
        process_wake_carrier(process);
        killed = is_free ? 1 : -1;
    }
    return killed;
}

/* Pages that the process alone has, in bytes. */
static int64_t private_memory(pid_t pid) {
    char path[64];
    long long size, resident = 0, shared = 0;
    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%lld %lld %lld", &size, &resident, &shared) != 3) resident = shared = 0;
    fclose(file);
    return (resident - shared) * sysconf(_SC_PAGESIZE);
}

void isolation_report(ProcessReport report, void *data) {
    static const char *const states[] = {[PROCESS_DOWN] = "down", [PROCESS_STARTING] = "starting", [PROCESS_UP] = "up"};
    int processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) {
        Process *process = table.processes[i];
        char last_death[sizeof(process->last_death)];
        pthread_mutex_lock(&process->mutex);
        ProcessFigures figures = {.device = process->device, .state = states[process->state], .last_death = last_death};
        figures.pid = process->engine;
        figures.starts = process->starts;
        figures.deaths = process->deaths;
        if (process->state != PROCESS_DOWN) figures.uptime = (monotonic_ns() - process->started) / 1000000000;
        memcpy(last_death, process->last_death, sizeof(last_death));
        pthread_mutex_unlock(&process->mutex);
        for (char *at = last_death; *at; at++) *at = *at == ',' || *at == '=' || *at < ' ' ? '?' : *at;
        if (figures.pid) figures.memory = private_memory((pid_t)figures.pid);
        report(data, &figures);
    }
}

void isolation_add_figures(OnnxFigures *sum) {
    int processes = __atomic_load_n(&table.count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < processes; i++) backend_add_figures(sum, &table.processes[i]->shared->figures);
}

static void add_memory(void *sum, const ProcessFigures *process) { *(int64_t *)sum += process->memory; }

int64_t isolation_memory(void) {
    int64_t sum = 0;
    isolation_report(add_memory, &sum);
    return sum;
}
