/* number_text.h - floating-point numbers as text, by the C++ library: Redis 7.0 and the C library take four times as
 * long. Any thread. */
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The finite number that all of the text is. -1: there is none, or only strtod() knows it ("+1", "0x1", " 1"). */
int number_parse(const char *text, size_t size, double *number);

#define NUMBER_TEXT 32

/* Writes a finite number as printf("%.17g") does, without a NUL. Returns the length. */
size_t number_print(double number, char text[NUMBER_TEXT]);

/* Writes the shortest text that becomes this number again, as a double or a float: "0.7", "1e+20", "inf", "nan". */
size_t number_print_short(double number, int is_double, char text[NUMBER_TEXT]);

#ifdef __cplusplus
}
#endif
