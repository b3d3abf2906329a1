import { t } from "./i18n.js";

document.title = t("page.title");
document.body.append(Object.assign(document.createElement("main"), { textContent: t("page.title") }));
