/* spawn.h - starts processes of Python beside the server. Any thread. */
#pragma once

#include <sys/types.h>

#define SPAWN_FIRST_FD 3
#define SPAWN_MOST_FDS 4

void spawn_init(void); /* at load, before there are other threads */

/* The process has these descriptors from SPAWN_FIRST_FD on, /dev/null as its input, the server's output, and no others.
 * It is the first of a process group, with no signals blocked or handled. arguments end with NULL. Returns 0, with its
 * id in *pid, or an errno. */
int spawn_python(const char *python, char *const *arguments, const int *fds, int nfds, pid_t *pid);
