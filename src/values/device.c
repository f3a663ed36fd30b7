/* device.c - the names of devices (device.h). Any thread. */
#include "values/device.h"

#include <strings.h>

int device_is_valid(const char *text, size_t len) {
    if (len < 3 || len >= 10) return 0;
    if (strncasecmp(text, "CPU", 3) != 0 && strncasecmp(text, "GPU", 3) != 0) return 0;
    if (len == 3) return 1;
    if (text[3] != ':' || len == 4) return 0;
    for (size_t i = 4; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
    }
    return 1;
}
