/* number_text.cpp - see number_text.h. C++ for <charconv> alone. */
#include "values/number_text.h"

#include <charconv>
#include <cmath>

int number_parse(const char *text, size_t size, double *number) {
    auto [end, error] = std::from_chars(text, text + size, *number);
    return error == std::errc() && end == text + size && std::isfinite(*number) ? 0 : -1;
}

size_t number_print(double number, char text[NUMBER_TEXT]) {
    return std::to_chars(text, text + NUMBER_TEXT, number, std::chars_format::general, 17).ptr - text;
}

size_t number_print_short(double number, int is_double, char text[NUMBER_TEXT]) {
    if (std::isnan(number)) number = std::fabs(number); /* "nan", never "-nan" */
    char *end = text + NUMBER_TEXT;
    return (is_double ? std::to_chars(text, end, number) : std::to_chars(text, end, (float)number)).ptr - text;
}
