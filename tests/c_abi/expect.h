// SPDX-License-Identifier: Apache-2.0
/* Expectations of the tests in C. A failed one is printed and counted; main() returns 1 if there is one. */
#pragma once

#include <kumiko/attention_c.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;
static int expectations = 0;

#define EXPECT(condition)                                                                                  \
  do {                                                                                                     \
    ++expectations;                                                                                        \
    if (!(condition)) {                                                                                    \
      ++failures;                                                                                          \
      printf("%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, kumiko_last_error()); \
    }                                                                                                      \
  } while (0)

/* The status and a part of the message, which must name the argument. */
#define EXPECT_ERROR(call, status, piece)                 \
  do {                                                    \
    EXPECT((call) == (status));                           \
    EXPECT(strstr(kumiko_last_error(), (piece)) != NULL); \
  } while (0)
