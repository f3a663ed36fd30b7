/* exit.c - preloaded into a redis-server with AddressSanitizer (scripts/sanitize): looks for leaks when the server
 * ends.
 *
 * LeakSanitizer would do that itself at exit(), but the module ends the process with _exit(), before the libraries'
 * destructors. What the loader and workers have in hand is known to Python alone, whose memory LeakSanitizer does not
 * read; so this waits until they are idle. */
#include <sanitizer/lsan_interface.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WINDOW_MS 200
#define IDLE_MS 5
#define MOST_WINDOWS 300

static pid_t server;

__attribute__((constructor)) static void remember(void) { server = getpid(); }

static int64_t used_ms(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return used.tv_sec * 1000 + used.tv_nsec / 1000000;
}

static void wait_until_idle(void) {
    for (int i = 0; i < MOST_WINDOWS; i++) {
        int64_t before = used_ms();
        usleep(WINDOW_MS * 1000);
        if (used_ms() - before <= IDLE_MS) return;
    }
}

void _exit(int status) {
    if (getpid() == server) { /* not a child that saves */
        wait_until_idle();
        __lsan_do_recoverable_leak_check();
    }
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}
