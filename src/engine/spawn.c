/* spawn.c - starts processes of Python beside the server (spawn.h). */
#include "engine/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include "engine/interpreter.h"

static char **environment; /* as it was at load: setenv() of other threads, such as Python's, frees what environ is */

void spawn_init(void) {
    size_t count = 0;
    engine_take_environment();
    while (environ && environ[count]) count++;
    environment = RedisModule_Calloc(count + 1, sizeof(*environment));
    for (size_t i = 0; i < count; i++) environment[i] = RedisModule_Strdup(environ[i]);
}

int spawn_python(const char *python, char *const *arguments, const int *fds, int nfds, pid_t *pid) {
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    int high[SPAWN_MOST_FDS]; /* out of the way of the descriptors that they become */
    for (int i = 0; i < nfds; i++) {
        high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 10);
        posix_spawn_file_actions_adddup2(&files, high[i], SPAWN_FIRST_FD + i);
    }
    posix_spawn_file_actions_addclosefrom_np(&files, SPAWN_FIRST_FD + nfds);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0); /* the terminal's signals are the server's */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    int error = posix_spawn(pid, python, &files, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    for (int i = 0; i < nfds; i++) close(high[i]);
    return error;
}
