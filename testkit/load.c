/* load.c - a closed-loop load generator for servers that speak RESP2 or HTTP/1.1, over loopback TCP.
 *
 * Every connection keeps a fixed number of requests on their way and sends the next one when an answer is complete. A
 * request is the content of a file: one or several commands, sent together and answered when all their replies are
 * there. Every reply is parsed to its end, however large or deeply nested, and checked: an error anywhere in it counts,
 * and so does anything but the bytes that were asked for. With --http the file is a request of HTTP, another status
 * than 200 is an error, and what is compared is the body.
 *
 * One thread and one epoll own everything; the signal handler only sets a flag. Requests are never rebuilt or copied,
 * so that what is measured is the server. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "load"
#include "client.h"

#define SECOND 1000000000ull
#define MAX_NESTING 32
#define GIVE_UP (60 * SECOND) /* without any reply */

/* Latencies in ns, log-linear: 2^SUB_BITS buckets for every power of two, so that none is off by more than 0.8 %. */
#define SUB_BITS 7
#define BUCKETS ((64 - SUB_BITS + 1) << SUB_BITS)

typedef struct Blob {
    const char *data;
    size_t size;
} Blob;

/* Where in the replies' bytes a connection is. Bulk strings and bodies are skipped over, only lines are kept. */
typedef struct Reader {
    uint64_t left[MAX_NESTING]; /* elements still to come, per level of nesting */
    int depth;
    uint64_t bulk; /* bytes of a bulk string and its CRLF, or of a body, still to come; 0: a line is being read */
    bool head;     /* of an HTTP response: its first line has been read */
    long long body;
    size_t line_size;
    char line[128];
    bool error; /* the reply holds an error */
} Reader;

typedef struct Conn {
    int fd;
    size_t unsent; /* bytes; offset says where in the request they begin */
    size_t offset;
    uint64_t *sent_at; /* a ring of --pipeline times, the oldest at first */
    unsigned first, inflight;
    unsigned replies; /* of the request that is being answered */
    size_t compared;  /* bytes of the answer (--prefix: of the reply) held against what is wanted */
    bool wrong;
    Reader reader;
} Conn;

static Blob request, wire; /* wire: the request repeated, so that one send() can carry several */
static bool http;
static unsigned request_commands;
static Blob wanted;
static bool wanted_exactly;
static unsigned port, connections = 1, pipeline = 1;
static uint64_t limit = UINT64_MAX;

static uint64_t issued, done, inflight, errors, bytes_in, bytes_out;
static uint64_t buckets[BUCKETS], samples, latency_sum, latency_max, latency_max_at;
static char first_error[sizeof((Reader *)0)->line];
static bool stopping;
static volatile sig_atomic_t signalled;
static char buffer[256 * 1024];

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* ---- latencies ------------------------------------------------------------------------------------------------- */

static void record(uint64_t latency, uint64_t now) {
    unsigned shift = latency >> SUB_BITS ? 63u - (unsigned)__builtin_clzll(latency) - SUB_BITS : 0;
    buckets[(shift << SUB_BITS) + (latency >> shift)]++;
    samples++;
    latency_sum += latency;
    if (latency > latency_max) {
        latency_max = latency;
        latency_max_at = now;
    }
}

static double percentile_us(double share) {
    uint64_t rank = (uint64_t)(share * (double)samples), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += buckets[i];
        if (seen <= rank) continue;
        unsigned shift = i >> (SUB_BITS + 1) ? (i >> SUB_BITS) - 1 : 0;
        uint64_t low = (uint64_t)(i - (shift << SUB_BITS)) << shift;
        uint64_t middle = low + ((1ull << shift) >> 1);
        return (double)(middle < latency_max ? middle : latency_max) / 1e3;
    }
    return (double)latency_max / 1e3;
}

/* ---- replies --------------------------------------------------------------------------------------------------- */

static long long number(const char *line, const char *what) {
    char *end;
    long long value = strtoll(line + 1, &end, 10);
    if (end == line + 1 || *end != '\r') die("malformed length in %s: %.20s", what, line);
    return value;
}

static Blob read_file(const char *path) {
    struct stat info;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &info) < 0) die("%s: %s", path, strerror(errno));
    Blob blob = {"", (size_t)info.st_size};
    if (blob.size) blob.data = mmap(NULL, blob.size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (blob.data == MAP_FAILED) die("%s: %s", path, strerror(errno));
    close(fd);
    return blob;
}

/* A header line of the request file, within [p, end). */
static long long header(const char **p, const char *end, char type, const char *path) {
    const char *newline = *p < end && **p == type ? memchr(*p, '\n', (size_t)(end - *p)) : NULL;
    char line[32];
    if (!newline || newline - *p >= (long)sizeof(line)) die("%s does not hold commands in RESP", path);
    memcpy(line, *p, (size_t)(newline - *p));
    line[newline - *p] = 0;
    *p = newline + 1;
    return number(line, path);
}

static unsigned count_commands(Blob blob, const char *path) {
    const char *p = blob.data, *end = p + blob.size;
    unsigned count = 0;
    for (; p < end; count++) {
        for (long long words = header(&p, end, '*', path); words > 0; words--) {
            long long size = header(&p, end, '$', path);
            if (size < 0 || end - p < size + 2) die("%s ends in the middle of a command", path);
            p += size + 2;
        }
    }
    if (!count) die("%s is empty", path);
    return count;
}

/* One element is complete; true when with it the whole reply is. */
static bool element_done(Reader *r) {
    while (r->depth && --r->left[r->depth - 1] == 0) r->depth--;
    return r->depth == 0;
}

static void keep_first(const char *line) {
    if (!*first_error) snprintf(first_error, sizeof(first_error), "%s", line);
}

static bool line_done(Reader *r) {
    long long n;
    switch (r->line[0]) {
    case '-':
        r->error = true;
        keep_first(r->line);
        return element_done(r);
    case '+':
    case ':': return element_done(r);
    case '$':
        n = number(r->line, "a reply");
        if (n < 0) return element_done(r);
        r->bulk = (uint64_t)n + 2;
        return false;
    case '*':
        n = number(r->line, "a reply");
        if (n <= 0) return element_done(r);
        if (r->depth == MAX_NESTING) die("a reply is nested deeper than %d", MAX_NESTING);
        r->left[r->depth++] = (uint64_t)n;
        return false;
    default: die("not a RESP2 reply: %s", r->line);
    }
}

/* A line of the head of an HTTP response; true when the response ends with it. */
static bool head_line_done(Reader *r) {
    if (!r->head) {
        if (strncmp(r->line, "HTTP/1.1 ", 9)) die("not an HTTP/1.1 response: %s", r->line);
        r->error = strncmp(r->line + 9, "200 ", 4) != 0;
        if (r->error) keep_first(r->line);
        r->head = true;
        r->body = -1;
    } else if (!strncasecmp(r->line, "content-length:", 15)) {
        r->body = number(r->line + 14, "a response");
    } else if (!strcmp(r->line, "\r\n")) {
        if (r->body < 0) die("a response without Content-Length");
        r->head = false;
        r->bulk = (uint64_t)r->body;
        return !r->bulk;
    }
    return false;
}

/* Reads at most to the end of the current reply, or of its head; says how many bytes that were and whether the reply's
 * end is reached. */
static size_t reader_feed(Reader *r, const char *data, size_t size, bool *complete) {
    const char *p = data, *end = data + size;
    *complete = false;
    while (p < end && !*complete) {
        size_t rest = (size_t)(end - p);
        if (r->bulk) {
            size_t taken = r->bulk < rest ? r->bulk : rest;
            p += taken;
            r->bulk -= taken;
            if (!r->bulk) *complete = element_done(r);
            continue;
        }
        const char *newline = memchr(p, '\n', rest);
        size_t taken = newline ? (size_t)(newline + 1 - p) : rest;
        size_t room = sizeof(r->line) - 1 - r->line_size;
        memcpy(r->line + r->line_size, p, taken < room ? taken : room);
        r->line_size += taken < room ? taken : room;
        p += taken;
        if (!newline) break;
        r->line[r->line_size] = 0;
        r->line_size = 0;
        *complete = http ? head_line_done(r) : line_done(r);
        if (http && r->bulk) break; /* only the body is compared */
    }
    return (size_t)(p - data);
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

/* Blocks: the replies of a set-up are small, so both sides never wait for each other. */
static void run_setup(const char *path) {
    Blob setup = read_file(path);
    Reader reader = {0};
    unsigned left = count_commands(setup, path);
    int fd = connect_server(port);
    for (size_t sent = 0; sent < setup.size;) {
        ssize_t n = send(fd, setup.data + sent, setup.size - sent, MSG_NOSIGNAL);
        if (n < 0) die("set-up: %s", strerror(errno));
        sent += (size_t)n;
    }
    while (left) {
        ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
        if (n <= 0) die("set-up: %s", n ? strerror(errno) : "the server closed the connection");
        for (size_t used = 0; used < (size_t)n;) {
            bool complete;
            used += reader_feed(&reader, buffer + used, (size_t)n - used, &complete);
            if (!complete) continue;
            if (reader.error) die("set-up: %s", first_error);
            left--;
        }
    }
    close(fd);
}

static void issue(Conn *c, uint64_t now) {
    if (stopping || issued == limit) return;
    c->sent_at[(c->first + c->inflight++) % pipeline] = now;
    c->unsent += request.size;
    issued++;
    inflight++;
}

static void answered(Conn *c, uint64_t now) {
    if (wanted_exactly && c->compared != wanted.size) c->wrong = true;
    if (c->wrong) {
        errors++;
        keep_first(http ? "another body" : c->reader.line);
    }
    record(now - c->sent_at[c->first], now);
    c->first = (c->first + 1) % pipeline;
    c->inflight--;
    inflight--;
    done++;
    c->wrong = false;
    c->compared = 0;
    c->replies = 0;
    issue(c, now);
}

static void compare(Conn *c, const char *data, size_t size) {
    if (c->compared < wanted.size) {
        size_t rest = wanted.size - c->compared;
        if (memcmp(data, wanted.data + c->compared, size < rest ? size : rest)) c->wrong = true;
    }
    c->compared += size;
}

static void conn_send(Conn *c) {
    while (c->unsent) {
        size_t size = wire.size - c->offset;
        ssize_t n = send(c->fd, wire.data + c->offset, size < c->unsent ? size : c->unsent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) die("send: %s", strerror(errno));
        c->unsent -= (size_t)n;
        c->offset = (c->offset + (size_t)n) % request.size;
        bytes_out += (size_t)n;
    }
}

static void conn_receive(Conn *c) {
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof(buffer), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) die("receive: %s", n ? strerror(errno) : "the server closed the connection");
        bytes_in += (size_t)n;
        uint64_t now = clock_ns();
        for (size_t used = 0; used < (size_t)n;) {
            bool complete;
            if (!c->inflight) die("a reply that nobody asked for: %.20s", buffer + used);
            bool compared = !http || c->reader.bulk;
            size_t taken = reader_feed(&c->reader, buffer + used, (size_t)n - used, &complete);
            if (compared) compare(c, buffer + used, taken);
            used += taken;
            if (!complete) continue;
            if (c->reader.error || (!wanted_exactly && c->compared < wanted.size)) c->wrong = true;
            if (!wanted_exactly) c->compared = 0;
            c->reader.error = false;
            if (++c->replies == request_commands) answered(c, now);
        }
        if ((size_t)n < sizeof(buffer)) return; /* drained: edge-triggered epoll tells when there is more */
    }
}

/* ---- the run --------------------------------------------------------------------------------------------------- */

static void on_signal(int signal) {
    (void)signal;
    signalled = 1;
}

static Conn *connect_all(int epoll) {
    Conn *all = calloc(connections, sizeof(*all));
    if (!all) die("out of memory");
    for (unsigned i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = &all[i]};
        all[i].fd = connect_server(port);
        all[i].sent_at = calloc(pipeline, sizeof(*all[i].sent_at));
        if (!all[i].sent_at) die("out of memory");
        if (fcntl(all[i].fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event) < 0)
            die("epoll: %s", strerror(errno));
    }
    return all;
}

static void forget_warmup(void) {
    memset(buckets, 0, sizeof(buckets));
    done = samples = latency_sum = latency_max = bytes_in = bytes_out = 0;
}

/* For whoever wants to do something meanwhile. */
static bool announce(void) {
    fputs("started\n", stderr);
    return true;
}

/* The distribution at fixed shares of requests, so that those of several runs can be combined: LATENCY_SHARES of
 * bench/report.py. Five for every power of ten, from the fastest request to all but one in 10,000. */
static void report_latencies(void) {
    double slower = 1;
    printf("\"latencies_us\": [");
    for (int i = 0; i <= 4 * 5; i++) {
        printf("%s%.1f", i ? ", " : "", percentile_us(1 - slower));
        slower *= 0.63095734448019325; /* the fifth root of 1/10 */
    }
    printf("]}\n");
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void report(uint64_t start, uint64_t end, uint64_t finished, double cpu_before) {
    for (char *p = first_error; *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\') *p = ' ';
    double seconds = (double)(end - start) / 1e9;
    printf("{\"connections\": %u, \"pipeline\": %u, \"commands_per_request\": %u, \"seconds\": %.6f, ", connections,
           pipeline, request_commands, seconds);
    printf("\"requests\": %" PRIu64 ", \"requests_per_s\": %.2f, \"errors\": %" PRIu64 ", \"first_error\": \"%s\", ",
           finished, (double)finished / seconds, errors, first_error);
    printf("\"mean_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, ",
           samples ? (double)latency_sum / (double)samples / 1e3 : 0, percentile_us(0.5), percentile_us(0.99),
           percentile_us(0.999), (double)latency_max / 1e3);
    printf("\"max_at_s\": %.3f, \"bytes_out\": %" PRIu64 ", \"bytes_in\": %" PRIu64 ", \"cpu_s\": %.6f, ",
           latency_max ? (double)(latency_max_at - start) / 1e9 : 0, bytes_out, bytes_in, cpu_seconds() - cpu_before);
    report_latencies();
}

/* A rate counts what was answered between start and end. What is still on its way then is waited for, so that the
 * server is left idle and a stall at the very end is seen: it counts among latencies and errors. */
static void run(double warmup, double seconds) {
    int epoll = epoll_create1(0);
    Conn *all = connect_all(epoll);
    uint64_t now = clock_ns(), start = now + (uint64_t)(warmup * 1e9), end = start + (uint64_t)(seconds * 1e9);
    uint64_t progress = now, seen = 0, finished = 0;
    double cpu_before = 0;
    bool warm = false;
    if (warmup == 0) warm = announce();
    for (unsigned i = 0; i < connections; i++) {
        for (unsigned k = 0; k < pipeline; k++) issue(&all[i], clock_ns());
        conn_send(&all[i]);
    }
    while (!stopping || inflight) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll, events, 256, 10);
        if (count < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            Conn *c = events[i].data.ptr;
            if (events[i].events & ~(unsigned)EPOLLOUT) conn_receive(c);
            conn_send(c);
        }
        now = clock_ns();
        if (!warm && now >= start) {
            forget_warmup();
            start = now;
            cpu_before = cpu_seconds();
            warm = announce();
        }
        bool enough = now >= end && done >= (uint64_t)connections * pipeline; /* a rate of slow requests needs some */
        if (!stopping && warm && (enough || done == limit || signalled)) {
            stopping = true;
            finished = done;
            end = now;
        }
        if (bytes_in + bytes_out != seen) {
            seen = bytes_in + bytes_out;
            progress = now;
        }
        if (now - progress > GIVE_UP) die("no reply for %d s", (int)(GIVE_UP / SECOND));
    }
    report(start, end, finished, cpu_before);
}

static double amount(const char *text, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        die("%s is not between %g and %g", text, least, most);
    return value;
}

int main(int argc, char **argv) {
    enum { PORT, CONNECTIONS, PIPELINE, SECONDS, REQUESTS, WARMUP, SETUP, PREFIX, EXPECT, HTTP };
    static const struct option options[] = {
        {"port", required_argument, NULL, PORT},
        {"connections", required_argument, NULL, CONNECTIONS},
        {"pipeline", required_argument, NULL, PIPELINE},
        {"seconds", required_argument, NULL, SECONDS},
        {"requests", required_argument, NULL, REQUESTS},
        {"warmup", required_argument, NULL, WARMUP},
        {"setup", required_argument, NULL, SETUP},   /* commands to send once before, in RESP */
        {"prefix", required_argument, NULL, PREFIX}, /* how every reply must begin */
        {"expect", required_argument, NULL, EXPECT}, /* a file: what a request must be answered with, to the byte */
        {"http", no_argument, NULL, HTTP},           /* request and answers are of HTTP/1.1 */
        {0},
    };
    double seconds = 1, warmup = 0;
    const char *setup = NULL;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case PORT: port = (unsigned)amount(optarg, 1, 65535); break;
        case CONNECTIONS: connections = (unsigned)amount(optarg, 1, 10000); break;
        case PIPELINE: pipeline = (unsigned)amount(optarg, 1, 10000); break;
        case SECONDS: seconds = amount(optarg, 0.001, 1e6); break;
        case REQUESTS: limit = (uint64_t)amount(optarg, 1, 1e15); break;
        case WARMUP: warmup = amount(optarg, 0, 1e6); break;
        case SETUP: setup = optarg; break;
        case PREFIX: wanted = (Blob){optarg, strlen(optarg)}; break;
        case EXPECT: wanted = read_file(optarg); break;
        case HTTP: http = true; break;
        default: return 1;
        }
        if (option == PREFIX || option == EXPECT) wanted_exactly = option == EXPECT;
    }
    if (optind + 1 != argc || !port) die("usage: load --port N [options] REQUEST-FILE");
    if (limit != UINT64_MAX && warmup > 0) die("--requests counts from the first one on, without a warm-up");
    if (limit != UINT64_MAX) seconds = 1e6;

    if (http && setup) die("--setup is of RESP");
    request = read_file(argv[optind]);
    if (http && !memmem(request.data, request.size, "\r\n\r\n", 4)) die("%s holds no HTTP request", argv[optind]);
    request_commands = http ? 1 : count_commands(request, argv[optind]);
    size_t copies = request.size < 64 * 1024 ? 64 * 1024 / request.size : 1;
    if (copies > pipeline) copies = pipeline;
    wire = request;
    if (copies > 1) {
        char *repeated = malloc(copies * request.size);
        if (!repeated) die("out of memory");
        for (size_t i = 0; i < copies; i++) memcpy(repeated + i * request.size, request.data, request.size);
        wire = (Blob){repeated, copies * request.size};
    }

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (setup) run_setup(setup);
    run(warmup, seconds);
    return 0;
}
