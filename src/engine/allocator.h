/* allocator.h - large blocks of memory that libraries free are kept for their next run. */
#ifndef ENGINE_ALLOCATOR_H
#define ENGINE_ALLOCATOR_H

/* At load, main thread. */
void allocator_init(void);

/* Every worker, before it runs anything. */
void allocator_prepare_thread(void);

#endif
