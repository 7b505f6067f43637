# SPDX-License-Identifier: Apache-2.0
# KUMIKO_PRECOMPILE_HEADERS: compiles the most-used standard headers once, for a quicker first build: that of scripts/demo, and those of
# scripts/test where there is no ccache to keep the objects, but for the preset release, in which a file must include what it uses. Kernels are
# compiled for several instruction sets, and include little.
set(standard_headers <algorithm> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstdio> <cstring> <deque> <filesystem>
    <fstream> <functional> <map> <memory> <mutex> <optional> <span> <stdexcept> <string> <string_view> <thread> <utility> <vector>)
target_precompile_headers(kumiko_scheduler PRIVATE ${standard_headers})
target_precompile_headers(kumiko REUSE_FROM kumiko_scheduler)
if(KUMIKO_SANITIZE MATCHES "thread")  # It has a flag of its own.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/scheduler/executor_tbb.cpp
    TARGET_DIRECTORY kumiko_scheduler PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
endif()
if(TARGET inference)
  if(CMAKE_BUILD_TYPE STREQUAL "Debug")  # in which oneTBB has a definition of its own
    target_precompile_headers(inference PRIVATE ${standard_headers})
  else()
    target_precompile_headers(inference REUSE_FROM kumiko_scheduler)
  endif()
  # They have compile flags of their own, with which the headers were not compiled: those of headers are not optimised under a sanitizer.
  set(own_flags elementwise.cpp)
  if(KUMIKO_SANITIZE)
    list(APPEND own_flags http_connection.cpp http_server.cpp json_reader.cpp)
  endif()
  list(TRANSFORM own_flags PREPEND ${PROJECT_SOURCE_DIR}/examples/inference_server/)
  set_source_files_properties(${own_flags} TARGET_DIRECTORY inference PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
endif()
