/* allocator.h - keeps large blocks of memory that libraries free for their next run, and refuses absurd ones. */
#pragma once

/* At load, main thread. */
void allocator_init(void);

/* Returns what is kept to the kernel: compiling a large model frees blocks as large, which no run needs. Any thread. */
void allocator_release(void);

/* In each worker, before its first run. */
void allocator_prepare_thread(void);
