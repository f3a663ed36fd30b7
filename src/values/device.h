/* device.h - the names of devices. */
#ifndef VALUES_DEVICE_H
#define VALUES_DEVICE_H

#include <stddef.h>

/* Whether text names a device: CPU, GPU, CPU:n or GPU:n in any case, under 10 characters. */
int device_is_valid(const char *text, size_t len);

#endif
