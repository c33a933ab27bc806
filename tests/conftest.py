pytest_plugins = ["tests.hub_server.fixtures", "tests.pictures", "tests.app_fixtures"]
