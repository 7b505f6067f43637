# SPDX-License-Identifier: Apache-2.0
# KUMIKO_PRECOMPILE_HEADERS: compiles the most-used standard headers once, for a quicker first build (scripts/demo). Not for the builds of
# the tests: there a file must include what it uses, and ccache keeps its objects. Kernels are compiled for several instruction sets, and
# include little.
set(standard_headers <algorithm> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstdio> <cstring> <deque> <filesystem>
    <fstream> <functional> <map> <memory> <mutex> <optional> <span> <stdexcept> <string> <string_view> <thread> <utility> <vector>)
target_precompile_headers(kumiko_scheduler PRIVATE ${standard_headers})
target_precompile_headers(kumiko REUSE_FROM kumiko_scheduler)
if(TARGET inference)
  target_precompile_headers(inference REUSE_FROM kumiko_scheduler)
  # It has compile flags of its own, with which the headers were not compiled.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/examples/inference_server/elementwise.cpp
    TARGET_DIRECTORY inference PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
endif()
